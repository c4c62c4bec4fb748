"""Behind PgBouncer in transaction mode: the API works through it; who sends needs the server's own address, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatching import House
from marzhook.event import SHARDS
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
