"""The primary dies, and its synchronous standby takes its place: nothing that was accepted is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conftest import SECRET_KEY
from dispatching import House
from marzhook.event import SHARDS
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import eventually
from postgresql import Server, Standby
from receivers import Receiver
from service import Service
from severing import Severed
from storm import Blow, Load, check, now
from workers import Start, holding, shares

USERS = 100


@pytest.fixture
def primary() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def standby(primary: Server) -> Iterator[Server]:
    server = Standby(primary)
    yield server
    server.stop()


@pytest.fixture(params=["refuses", "does not answer"])
def host(request: pytest.FixtureRequest) -> str:
    """What the host of the dead primary does from then on."""
    return str(request.param)


@pytest.fixture
def way(primary: Server) -> Iterator[Severed]:
    """To the primary."""
    with Severed(primary.port) as way:
        yield way


@pytest.fixture
def database_settings(primary: Server, standby: Standby, way: Severed, host: str) -> dict[str, str]:
    """Both hosts, and whichever of them can be written."""
    hosts = f"127.0.0.1:{primary.port if host == 'refuses' else way.port},127.0.0.1:{standby.port}"
    url = f"postgresql://marzhook:{primary.password}@{hosts}/postgres?target_session_attrs=read-write"
    return {"MARZHOOK_DATABASE_URL": url, "MARZHOOK_SECRET_KEY": SECRET_KEY}


def test_a_standby_takes_over(
    tmp_path: Path,
    database_settings: dict[str, str],
    start: Start,
    receiver: Receiver,
    primary: Server,
    standby: Standby,
    way: Severed,
    host: str,
) -> None:
    """The primary is killed under load, alone or with its host, and the standby promoted: the API, two workers and what they
    hold go on by themselves, every accepted event arrives, in order, and what was settled does not come again."""
    receiver.do(brief=True)
    with (
        Service(tmp_path, "--no-dispatch", WEBHOOK_ADDRESS=receiver.url, **database_settings) as service,
        closing(Database.open(database_settings["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY])) as database,
    ):
        house = House(database, Outbox(database))
        workers = [start(), start()]
        eventually(lambda: shares(database) == [SHARDS // 2] * 2, timeout=60)
        with Load(service, users=USERS, every=0.1) as load:
            receiver.wait(10 * USERS)
            begin = now()
            way.fall_silent()
            primary.kill()
            standby.promote()
            eventually(lambda: holding(database) == SHARDS, timeout=60, what="workers on the new primary")
            blow = Blow(begin, now())
            resumed = load.total
            eventually(lambda: load.total >= resumed + 10 * USERS, timeout=60, what="accepted events")
            load.stop()
        eventually(lambda: house.count("pending") == 0, timeout=60)
        report = check(database, receiver, load, [blow])
        eventually(lambda: service.call("GET", "/readyz")[0] == 200)
        assert [worker.end() for worker in workers] == [0, 0]
        assert service.stop() == 0
    print(
        f"failover, the old host {host}: {load.total} events accepted, {load.repeated} calls repeated,"
        f" {report.repeated} requests came again, {report.silences[0]:.1f} s without a delivery"
    )
