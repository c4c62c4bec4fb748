"""A Patroni cluster whose leader dies again and again (`make test-ha`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest

from cluster import Cluster
from conftest import SECRET_KEY
from dispatching import House
from marzhook.event import SHARDS
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import eventually
from receivers import Receiver
from service import Service
from storm import Blow, Load, check, now
from workers import Start, holding, shares

KILLS = int(os.environ.get("KILLS", "10"))
USERS = 100


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture
def database_settings(cluster: Cluster) -> dict[str, str]:
    return {"MARZHOOK_DATABASE_URL": cluster.url, "MARZHOOK_SECRET_KEY": SECRET_KEY}


@pytest.mark.ha
@pytest.mark.timeout(300 + 120 * KILLS)
def test_the_leader_is_killed_again_and_again(
    tmp_path: Path, cluster: Cluster, database_settings: dict[str, str], start: Start, receiver: Receiver
) -> None:
    """Under load the leader's machine dies; Patroni lets the synchronous standby lead, and the API and two workers go on with
    it by themselves; the dead one comes back as a standby. Every accepted event arrives, in order, and what was settled
    does not come again."""
    receiver.do(brief=True)
    with (
        Service(tmp_path, "--no-dispatch", WEBHOOK_ADDRESS=receiver.url, **database_settings) as service,
        closing(Database.open(cluster.url, secret_keys=[SECRET_KEY])) as database,
    ):
        house = House(database, Outbox(database))
        workers = [start(), start()]
        eventually(lambda: shares(database) == [SHARDS // 2] * 2, timeout=60)
        blows: list[Blow] = []
        with Load(service, users=USERS, every=0.25) as load:
            for _ in range(KILLS):
                before = load.total
                eventually(lambda before=before: load.total >= before + 10 * USERS, timeout=60, what="accepted events")
                leader = cluster.leader()
                assert leader is not None
                begin = now()
                leader.kill()
                eventually(lambda: holding(database) == SHARDS, timeout=120, what="workers on a new leader")
                blows.append(Blow(begin, now()))
                leader.start()
                cluster.await_whole()
            load.stop()
        while owed := house.count("pending"):
            # However long that takes, on a machine that others keep busy.
            eventually(lambda owed=owed: house.count("pending") < owed, timeout=60)
        report = check(database, receiver, load, blows)
        assert [worker.end() for worker in workers] == [0, 0]
        assert service.stop() == 0
    silences = sorted(report.silences)
    print(
        f"{KILLS} leaders killed: {load.total} events accepted and delivered, {load.repeated} calls repeated,"
        f" {report.repeated} requests came again; without a delivery for"
        f" {silences[0]:.1f} to {silences[-1]:.1f} s, {median(silences):.1f} s at the median"
    )
