"""A PostgreSQL server that says nothing more: what a process that only serves tells of it, and of workers that are missing."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import SECRET_KEY
from dispatching import House
from marzhook.dispatch import lookout
from marzhook.dispatch.lookout import Lookout
from marzhook.runtime import Runtime
from marzhook.settings import load
from marzhook.testing import FakeClock, eventually
from postgresql import Server
from receivers import Receiver, header_of
from service import Service
from workers import WorkerProcess

CALLS = 60
"""More than there are threads for."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    if server.process.poll() is None:
        server.thaw()
    server.stop()


def probe(service: Service, path: str) -> tuple[int, Any]:
    """As an orchestrator asks, who waits for seconds only."""
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize("path", ["/api/admin", "/api/user/anna", "/api/v1/endpoints", "/metrics"])
def test_it_stops_no_answer_that_needs_none_of_it(tmp_path: Path, server: Server, path: str) -> None:
    """However many calls wait for it: the process says that it lives, and that it is not ready. When the server goes on, so do
    they."""
    settings = {"MARZHOOK_DATABASE_URL": server.tcp_url(), "MARZHOOK_SECRET_KEY": SECRET_KEY}
    with Service(tmp_path, "--no-dispatch", **settings) as service, ExitStack() as opened:
        assert service.call("POST", "/api/user", {"username": "anna", "proxies": {}})[0] == 200
        assert probe(service, "/readyz") == (200, {"status": "ready"})
        server.freeze()
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token()}\r\nConnection: close\r\n\r\n"
        calls = [opened.enter_context(socket.create_connection(("127.0.0.1", service.port), 30)) for _ in range(CALLS)]
        for call in calls:
            call.sendall(head.encode())
        eventually(lambda: probe(service, "/readyz")[0] == 503, timeout=15)
        assert "has not answered for" in probe(service, "/readyz")[1]["reasons"][0]
        assert probe(service, "/healthz") == (200, {"status": "ok"})
        server.thaw()
        assert {call.recv(12) for call in calls} <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        eventually(lambda: probe(service, "/readyz")[0] == 200, timeout=15)


@pytest.mark.parametrize("arguments", [(), ("--no-dispatch",)])
def test_a_database_that_is_gone_is_told_of(tmp_path: Path, server: Server, arguments: Sequence[str]) -> None:
    """A service is not ready without it, and is again when it is back. The log has a line when it goes and one when it is
    back, whoever meets that meanwhile, and tracebacks of bugs only."""
    settings = {"MARZHOOK_DATABASE_URL": server.tcp_url(), "MARZHOOK_SECRET_KEY": SECRET_KEY}
    with Service(tmp_path, *arguments, **settings) as service:
        assert service.call("POST", "/api/v1/events", {"username": "anna", "action": "user_updated"})[0] == 202
        server.kill()
        eventually(lambda: probe(service, "/readyz")[0] == 503, timeout=15)
        assert service.call("GET", "/api/v1/endpoints")[0] == 503
        eventually(lambda: any(" is away (" in line for line in list(service.log)), timeout=15)
        server.restart()
        eventually(lambda: probe(service, "/readyz")[0] == 200, timeout=15)
        service.stop()
    told = [json.loads(line) for line in service.log]
    warned = [
        line["message"] for line in told if line["level"] == "warning" and line["logger"] == "marzhook.store.presence"
    ]
    assert [name for message in warned for name in (" is away (", " is back after ") if name in message] == [
        " is away (",
        " is back after ",
    ]
    assert [line for line in told if line["level"] == "error" or "exception" in line] == []


def test_who_is_told_to_end_does_not_wait_for_it(tmp_path: Path, server: Server) -> None:
    """A worker that delivers, though its server hangs: it ends before anybody kills it (the unit's 60 s, an orchestrator's
    usual 30), and what it could not write down another one delivers again."""
    settings = {"MARZHOOK_DATABASE_URL": server.tcp_url(), "MARZHOOK_SECRET_KEY": SECRET_KEY}
    with (
        Receiver() as receiver,
        Service(tmp_path, "--no-dispatch", WEBHOOK_ADDRESS=receiver.url, **settings) as service,
    ):
        worker = WorkerProcess(tmp_path, settings)
        receiver.do(hold=True)
        assert service.call("POST", "/api/v1/events", {"username": "anna", "action": "user_updated"})[0] == 202
        receiver.wait(1)
        with psycopg.connect(server.url()) as others, psycopg.connect(server.url(), autocommit=True) as watch:
            # So that it is sure to be in the middle of something.
            others.execute("LOCK TABLE users")
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            eventually(lambda: watch.execute(waiting).fetchone())
            server.freeze()
            receiver.do(status=200)
            try:
                with closing(worker.log):
                    assert worker.end() == 0
            finally:
                server.thaw()
        other = WorkerProcess(tmp_path, settings)
        first, again = receiver.wait(2)
        assert header_of(first, "webhook-id") == header_of(again, "webhook-id")
        with closing(other.log):
            assert other.end() == 0


@pytest.mark.postgresql
def test_calls_that_have_all_connections_do_not_make_it_unready(database_settings: dict[str, str]) -> None:
    """The database answers, to who has a connection; a probe that said otherwise would take the others' process away, too."""
    runtime = Runtime(load(database_settings, None), dispatches=False)
    database = runtime.services.database
    with ExitStack() as calls:
        calls.callback(runtime.stop)
        for _ in range(30):
            calls.enter_context(database.read())
        runtime.lookout.look()
        assert runtime.lookout.not_ready == []


@pytest.mark.postgresql
def test_that_nobody_delivers_is_told_once(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """After a minute in which something is owed and no worker is there, and once more when one is."""
    caplog.set_level("INFO", "marzhook")
    clock = FakeClock()
    looking = Lookout(house.database, clock)

    def look(after: float) -> list[str]:
        caplog.clear()
        clock.advance(after)
        looking.look()
        return caplog.messages

    assert look(0) == look(2 * lookout.ALONE) == []
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    assert look(1) == ["nobody delivers what is owed; start `marzhook worker`"]
    assert look(1) == []
    with closing(house.database.shards("one")):
        assert look(1) == ["somebody delivers again"]
        assert look(2 * lookout.ALONE) == []
    eventually(lambda: not house.database.workers())
    assert look(1) == look(lookout.ALONE / 2) == []
    assert len(look(lookout.ALONE)) == 1
    assert looking.not_ready == []
