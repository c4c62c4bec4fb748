"""A rolling upgrade: processes of the version before work on beside this one's, on this one's schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from command_line import as_json, marzhook
from conftest import SECRET_KEY
from former import unpacked
from marzhook.event import SHARDS
from marzhook.store import integrity, migrations
from marzhook.store.database import Database
from marzhook.testing import eventually
from postgresql import Server
from receivers import Receiver
from service import Service
from workers import WorkerProcess, shards_of, shares

USERS = [f"user{number}" for number in range(40)]


@pytest.fixture
def empty(postgresql: Server) -> Iterator[dict[str, str]]:
    """What the environment says of a database in which nothing is yet."""
    with postgresql.database() as name:
        yield {"MARZHOOK_DATABASE_URL": postgresql.url(name), "MARZHOOK_SECRET_KEY": SECRET_KEY}


@pytest.fixture
def before(tmp_path: Path, empty: dict[str, str]) -> dict[str, str]:
    """The same to a process of the version before."""
    return empty | unpacked(tmp_path)


def publish(service: Service, number: int) -> None:
    """The event of this number, of each user."""
    events = [{"username": name, "action": "user_updated", "number": number} for name in USERS]
    assert service.call("POST", "/api/v1/events", events)[0] == 202


def worker(stack: ExitStack, folder: Path, settings: dict[str, str]) -> WorkerProcess:
    """One that is gone with the stack."""
    found = WorkerProcess(folder, settings)
    stack.callback(found.log.close)
    stack.callback(found.end)
    return found


@pytest.mark.timeout(120)
def test_the_version_before_works_on_beside_this_one(
    tmp_path: Path, empty: dict[str, str], before: dict[str, str], receiver: Receiver
) -> None:
    """Its API and its worker run while the database is upgraded and a worker and an API of this version join: all that either
    accepts is delivered once and in order per user, through an outage too, and what either writes the other one reads."""
    runs = {
        "WEBHOOK_ADDRESS": receiver.url,
        "NUMBER_OF_RECURRENT_NOTIFICATIONS": "50",
        "RECURRENT_NOTIFICATIONS_TIMEOUT": "1",
    }
    with Service(tmp_path, "--no-dispatch", **before, **runs) as old, ExitStack() as stack:
        old_worker = worker(stack, tmp_path, before | runs)
        with closing(Database.open(empty["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY])) as database:
            eventually(lambda: shares(database) == [SHARDS], timeout=30)
            publish(old, 0)
            receiver.wait(40)
            known = database.revision()
            assert known in migrations.revisions()

            marzhook(tmp_path, "db", "migrate", **empty)
            assert database.revision() == migrations.revisions()[-1]
            publish(old, 1)
            assert old.call("POST", "/api/user", {"username": "anna", "proxies": {}})[0] == 200
            receiver.wait(81)

            new_worker = worker(stack, tmp_path, empty | runs)
            eventually(lambda: shares(database) == [SHARDS // 2] * 2, timeout=30)
            with Service(tmp_path, "--no-dispatch", **empty, **runs) as new:
                receiver.do(status=503)
                publish(old, 2)
                publish(new, 3)
                receiver.wait(83)
                assert new.call("PUT", "/api/user/anna", {"note": "from the new one"})[0] == 200
                assert old.call("GET", "/api/user/anna")[1]["note"] == "from the new one"
                receiver.do(status=200)
                publish(old, 4)
                eventually(lambda: len(receiver.accepted()) == 40 * 5 + 2, timeout=60)
                listed = {one["process"]: one for one in as_json(tmp_path, "workers", **empty)}
                assert listed[old_worker.process.pid]["rate"] is None
                assert listed[new_worker.process.pid]["rate"] is not None

                assert old_worker.end() == 0
                eventually(lambda: len(shards_of(database, new_worker.told)) == SHARDS, timeout=30)
                publish(old, 5)
                eventually(lambda: len(receiver.accepted()) == 40 * 6 + 2, timeout=30)
                assert old.stop() == new.stop() == new_worker.end() == 0
            assert list(integrity.findings(database)) == []
    came = receiver.accepted()
    for name in USERS:
        assert [event["number"] for event in came if event["username"] == name] == list(range(6))
    assert [event["action"] for event in came if event["username"] == "anna"] == ["user_created", "user_updated"]
