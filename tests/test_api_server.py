"""The API's server: where a request comes from, directly and through a proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Event
from typing import Any

import pytest

from marzhook import settings
from marzhook.api import server as server_module
from marzhook.api.errors import LastResort
from marzhook.api.server import Server

CLIENT = "198.51.100.7"


async def show(scope: Any, _receive: Any, send: Any) -> None:
    """Who the service thinks it is."""
    body = json.dumps(scope["client"][0]).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(host: str, **environ: str) -> Iterator[int]:
    server = Server(show, host, 0, proxies=settings.load(environ, None).proxies)
    server.start()
    try:
        yield int(server.address.rpartition(":")[2])
    finally:
        server.stop()


def test_what_is_not_done_when_the_service_stops_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that waits for a database that hangs, say: its caller is told, and the log has a line and no traceback."""
    monkeypatch.setattr(server_module, "GRACE", 1)
    began = Event()

    async def hang(_scope: Any, _receive: Any, _send: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    server = Server(LastResort(hang), "127.0.0.1", 0)
    server.start()
    connection = HTTPConnection("127.0.0.1", int(server.address.rpartition(":")[2]), timeout=10)
    connection.request("GET", "/api/users")
    assert began.wait(10)
    server.stop()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["code"]) == (503, "outcome_unknown")
    connection.close()
    assert [record.message for record in caplog.records if record.name == "marzhook.api.errors"] == [
        "GET /api/users was not done before the service stopped"
    ]
    assert [record for record in caplog.records if record.exc_info] == []


def seen(port: int, forwarded: str | None, source: str = "127.0.0.1") -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))
    connection.request("GET", "/", headers={} if forwarded is None else {"X-Forwarded-For": forwarded})
    client: str = json.loads(connection.getresponse().read())
    connection.close()
    return client


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_proxy_on_this_machine_is_believed(host: str) -> None:
    """Also where one socket listens for IPv4 and IPv6; others are believed where the settings name them."""
    with served(host) as port:
        assert seen(port, CLIENT) == CLIENT
        # What a client has made up stands before what the proxy has seen.
        assert seen(port, f"192.0.2.1, {CLIENT}") == CLIENT
        assert seen(port, None).endswith("127.0.0.1")
        assert seen(port, CLIENT, source="127.0.0.2").endswith("127.0.0.2")
    with served(host, FORWARDED_ALLOW_IPS="127.0.0.0/30,::1") as port:
        assert seen(port, CLIENT, source="127.0.0.2") == CLIENT
    with served(host, FORWARDED_ALLOW_IPS="192.0.2.0/24") as port:
        assert seen(port, CLIENT).endswith("127.0.0.1")
    with served(host, FORWARDED_ALLOW_IPS="*") as port:
        assert seen(port, CLIENT, source="127.0.0.2") == CLIENT
