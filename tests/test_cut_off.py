"""Workers on hosts of their own, of which one is cut off from the database (`make test-ha`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conftest import SECRET_KEY
from dispatching import House
from marzhook.dispatch.ownership import SILENT
from marzhook.event import SHARDS
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import eventually
from namespaces import DATABASE, RECEIVERS, Host, NoNamespaces, hosts
from postgresql import Server
from receivers import Receiver
from service import Service
from storm import Blow, Load, check, now
from workers import Start, shards_of, shares

MINUTE = 60.0
TAKEN_OVER = 30.0
"""Seconds within which others have the shards of who is cut off."""


@pytest.fixture
def two() -> Iterator[list[Host]]:
    try:
        with hosts(2) as made:
            yield made
    except NoNamespaces as error:
        pytest.skip(str(error))


@pytest.fixture
def server(two: list[Host]) -> Iterator[Server]:
    server = Server(listen_addresses=f"127.0.0.1,{DATABASE}", allow="198.18.0.0/15")
    yield server
    server.stop()


@pytest.fixture
def database_settings(server: Server) -> dict[str, str]:
    return {"MARZHOOK_DATABASE_URL": server.tcp_url(host=DATABASE), "MARZHOOK_SECRET_KEY": SECRET_KEY}


@pytest.mark.ha
@pytest.mark.timeout(300)
def test_a_worker_is_cut_off_for_a_minute(
    tmp_path: Path, two: list[Host], database_settings: dict[str, str], start: Start
) -> None:
    """It sends nothing more after a few seconds, and the other one has its shards within 30. What it had on its way it cannot
    settle, also when it is back; it takes nothing for its own then, and joins as a new one."""
    lost, kept = two
    with (
        Receiver(host=RECEIVERS) as receiver,
        Service(tmp_path, "--no-dispatch", WEBHOOK_ADDRESS=receiver.url, **database_settings) as service,
        closing(Database.open(database_settings["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY])) as database,
    ):
        # So slow that something is on its way at any moment.
        receiver.do(brief=True, delay=0.3)
        house = House(database, Outbox(database))
        worker, other = start(through=lost.through), start(through=kept.through)
        eventually(lambda: shares(database) == [SHARDS // 2] * 2, timeout=60)
        with Load(service, users=200, every=4.0) as load:
            eventually(
                lambda: {record["from"] for record in receiver.seen()} == {lost.address, kept.address}, timeout=30
            )
            before = len(receiver.seen())
            receiver.wait(before + 50)
            held = frozenset(shards_of(database, worker.told))
            begin = now()
            lost.cut_off()
            eventually(lambda: len(shards_of(database, other.told)) == SHARDS, timeout=TAKEN_OVER)
            taken_over = now()
            eventually(lambda: now() > begin + MINUTE, timeout=MINUTE)
            assert shards_of(database, worker.told) == set()
            back = now()
            lost.join()
            eventually(lambda: shares(database) == [SHARDS // 2] * 2, timeout=60)
            joined = now()
            eventually(lambda: sent(receiver, lost, since=joined), timeout=30)
            load.stop()
        eventually(lambda: house.count("pending") == 0, timeout=60)
        check(database, receiver, load, [Blow(begin, taken_over, held)])
        since = {one.name: one.since for one in database.workers()}
        new = next(at for name, at in since.items() if worker.told in name)
        assert new is not None
        assert new.timestamp() > back
        meanwhile = [at for at in sent(receiver, lost, since=begin) if at < back]
        assert [at for at in meanwhile if at > begin + SILENT + 1.0] == []
        assert [at for at in sent(receiver, lost, since=back) if at < new.timestamp()] == []
        assert "settlements are dropped" in worker.said()
        assert (worker.end(), other.end(), service.stop()) == (0, 0, 0)
    last = max((at - begin for at in meanwhile), default=0.0)
    print(
        f"cut off for {MINUTE:.0f} s: sent nothing more after {last:.1f} s, its shards were taken over after"
        f" {taken_over - begin:.1f} s, and it had its share again {joined - back:.1f} s after it was back"
    )


def sent(receiver: Receiver, host: Host, *, since: float) -> list[float]:
    """When this host's requests came (Unix seconds)."""
    return [one["at"] for one in receiver.seen() if one["from"] == host.address and one["at"] >= since]
