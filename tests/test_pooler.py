"""Behind PgBouncer in transaction mode: the API works through it; who sends needs the server's own address, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conftest import SECRET_KEY
from dispatching import House
from marzhook.errors import StartError
from marzhook.event import SHARDS
from marzhook.store.database import Database
from marzhook.store.postgresql import Address, PostgreSQLDatabase
from marzhook.testing import eventually
from pooler import pgbouncer
from postgresql import Server
from receivers import Receiver
from service import Service, marzhook
from workers import Start, shares

pytestmark = pytest.mark.postgresql


@pytest.fixture
def pooled(postgresql: Server, database_settings: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same database through the pooler."""
    name = database_settings["MARZHOOK_DATABASE_URL"].partition("@/")[2].partition("?")[0]
    with pgbouncer(postgresql) as port:
        yield database_settings | {"MARZHOOK_DATABASE_URL": f"postgresql://marzhook@127.0.0.1:{port}/{name}"}


def test_the_api_works_and_a_worker_has_the_servers_own_address(
    tmp_path: Path, house: House, database_settings: dict[str, str], pooled: dict[str, str], start: Start,
    receiver: Receiver,
) -> None:  # fmt: skip
    """Users, events, idempotent calls, pages and commands go through few sessions that all share; a worker with
    MARZHOOK_WORKER_DATABASE_URL holds its shards on a session of its own, and delivers."""
    settings = pooled | {"MARZHOOK_WORKER_DATABASE_URL": database_settings["MARZHOOK_DATABASE_URL"]}
    with Service(tmp_path, "--no-dispatch", WEBHOOK_ADDRESS=receiver.url, **pooled) as service:
        worker = start(**settings)
        eventually(lambda: shares(house.database) == [SHARDS], timeout=30)
        for number in range(20):
            status, _ = service.call("POST", "/api/user", {"username": f"user{number}", "proxies": {}})
            assert status == 200
        events = [{"username": f"user{number}", "action": "user_updated", "number": number} for number in range(20)]
        answers = [service.call("POST", "/api/v1/events", events, key="once") for _ in range(3)]
        assert answers[0][0] == 202
        assert answers[1:] == answers[:1] * 2
        assert service.call("GET", "/api/users?limit=5")[1]["total"] == 20
        receiver.wait(40)
        eventually(lambda: house.states() == {"delivered": 40})
        assert {event["action"] for event in receiver.accepted()} == {"user_created", "user_updated"}
        assert service.call("GET", "/readyz")[0] == 200
        assert len(service.call("GET", "/api/v1/deliveries?limit=100")[1]["deliveries"]) == 40
        told = marzhook(tmp_path, "workers", **pooled)
        assert (told.returncode, str(worker.process.pid) in " ".join(told.stdout.split())) == (0, True)
        assert marzhook(tmp_path, "send", "user_updated", "user1", **pooled).returncode == 0
        receiver.wait(41)
        assert worker.end() == 0
        assert service.stop() == 0


def test_who_sends_says_that_it_is_behind_a_pooler(tmp_path: Path, pooled: dict[str, str]) -> None:
    """`worker` and `run` end with one line that names the setting, and hold nothing."""
    for command in ("worker", "run"):
        refused = marzhook(tmp_path, command, UVICORN_PORT="0", **pooled)
        assert refused.returncode == 2
        assert "reached through a pooler" in refused.stderr
        assert "set MARZHOOK_WORKER_DATABASE_URL to the server's own address" in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.fixture
def lost(database: Database, pooled: dict[str, str], postgresql: Server, template: str) -> Iterator[dict[str, str]]:
    """Its workers' address leads to another database, one just as this one."""
    with postgresql.database(template) as other:
        yield pooled | {"MARZHOOK_WORKER_DATABASE_URL": postgresql.url(other)}


def test_an_address_that_leads_to_another_database_is_refused(tmp_path: Path, lost: dict[str, str]) -> None:
    """A copy of it, with the same name for itself: who would send from one and settle in the other does not start."""
    for command in ("worker", "run", "check"):
        refused = marzhook(tmp_path, command, UVICORN_PORT="0", **lost)
        said = refused.stdout if command == "check" else refused.stderr
        assert refused.returncode == (1 if command == "check" else 2)
        assert "leads to another database than MARZHOOK_DATABASE_URL" in " ".join(said.split())
        assert "Traceback" not in refused.stderr


def test_a_failover_of_one_address_alone_stops_the_sending(
    database: Database, pooled: dict[str, str], database_settings: dict[str, str], postgresql: Server, template: str
) -> None:
    """Also later than at the start: each session that is to hold shards is one of the database that is read."""
    direct = database_settings["MARZHOOK_DATABASE_URL"]
    with closing(Database.open(pooled["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY], direct_url=direct)) as both:
        both.shards("one").close()
        assert isinstance(both, PostgreSQLDatabase)
        with postgresql.database(template) as other:
            both.direct = Address.of(postgresql.url(other), "MARZHOOK_WORKER_DATABASE_URL")
            with pytest.raises(StartError, match="leads to another database"):
                both.shards("one")
            assert Database.open(postgresql.url(other), secret_keys=[SECRET_KEY]).workers() == []


def test_what_is_wrong_with_the_servers_own_address_is_told_of_it(
    tmp_path: Path, database: Database, pooled: dict[str, str], postgresql: Server, receiver: Receiver
) -> None:
    """By its setting and its address, not by the pooler's; `check` tries it, and says of none what it is needed for."""
    name = f"127.0.0.1:{postgresql.port}/postgres"
    wrong = {
        f"postgresql://marzhook:no@{name}": f"postgresql://{name} cannot be opened",
        f"postgresql://marzhook@/nosuch?host={postgresql.folder}&port={postgresql.port}": '"nosuch" does not exist',
        "postgresql:///x?host=/nowhere": "cannot be reached",
        "postgresql://u:p@h/d?nosuch=1": "MARZHOOK_WORKER_DATABASE_URL is not a PostgreSQL URL",
    }
    for url, words in wrong.items():
        refused = marzhook(tmp_path, "worker", MARZHOOK_WORKER_DATABASE_URL=url, **pooled)
        said = " ".join(refused.stderr.split())
        assert words in said
        assert ("MARZHOOK_WORKER_DATABASE_URL" in said, " MARZHOOK_DATABASE_URL" in said) == (True, False), said
    checked = marzhook(
        tmp_path, "check", WEBHOOK_ADDRESS=receiver.url, MARZHOOK_WORKER_DATABASE_URL=next(iter(wrong)), **pooled
    )
    assert (checked.returncode, "BAD MARZHOOK_WORKER_DATABASE_URL" in " ".join(checked.stdout.split())) == (1, True)
    checked = marzhook(tmp_path, "check", WEBHOOK_ADDRESS=receiver.url, **pooled)
    assert (checked.returncode, "only `marzhook run --no-dispatch` works" in checked.stdout) == (0, True)
