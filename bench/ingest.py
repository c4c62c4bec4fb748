"""How fast the API takes things in, each call on disk before it is answered: events, users, traffic.

Against the real service process, each on one kept-alive connection. Its one endpoint is disabled: what is owed to it is
written, and nothing else has the processor.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.service import Client, Service
from bench.users import make_users
from marzhook.cli.bench import BATCH, USERS, fill, settings_for

ROWS = 10_000
PANEL = 57.0
"""Users a second that Marzban 0.8 makes on such a machine (`POST /api/user`)."""


def measure(options: Options) -> Measured:
    seconds = options.scaled(5, 2)
    events, users, together, rows = [], [], [], []
    for _ in range(options.rounds):
        with quiet_service() as service:
            events.append(_alone(service, lambda client: partial(accept, client), seconds) * BATCH)
            users.append(_alone(service, lambda client: maker(client, "one"), seconds))
            together.append(_at_once(service, 8, seconds))
            rows.append(_alone(service, lambda client: partial(report, client), seconds) * ROWS)
    return Measured(
        [
            Figure.of(f"POST /api/v1/events, {BATCH:,} at once", events, "events/s", at_least=50_000),
            Figure.of("POST /api/user", users, "users/s"),
            Figure("times the panel's 57/s", median(users) / PANEL, "x", at_least=10),
            Figure.of("POST /api/user, 8 connections", together, "users/s"),
            Figure.of(f"POST /api/v1/usage, {ROWS:,} rows at once", rows, "rows/s", at_least=100_000),
        ]
    )


EVENTS = json.dumps([{"username": f"user{n % USERS}", "action": "user_updated"} for n in range(BATCH)]).encode()
USAGE = json.dumps([{"username": f"user{n}", "bytes": 1000 + n} for n in range(ROWS)]).encode()


def accept(client: Client) -> None:
    client.call("POST", "/api/v1/events", EVENTS)


def report(client: Client) -> None:
    client.call("POST", "/api/v1/usage", USAGE)


def maker(client: Client, prefix: str) -> Callable[[], object]:
    """Makes a new user at each call."""
    numbers = iter(range(10**9))

    def make() -> None:
        body = {"username": f"{prefix}-{next(numbers)}", "proxies": {"vless": {}}, "data_limit": 10**10, "expire": 0}
        client.call("POST", "/api/user", json.dumps(body).encode())

    return make


def rate(call: Callable[[], object], seconds: float) -> float:
    """Calls a second, for so many seconds."""
    call()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        call()
        done += 1
    return done / (time.perf_counter() - begun)


def _alone(service: Service, calls: Callable[[Client], Callable[[], object]], seconds: float) -> float:
    """Calls a second, on a connection of its own: the server closes those that are idle for some seconds."""
    client = service.client()
    try:
        return rate(calls(client), seconds)
    finally:
        client.close()


@contextmanager
def quiet_service(*, users: int = ROWS) -> Iterator[Service]:
    """A service with users, and one endpoint that is owed everything and sent nothing."""
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        folder = Path(made)
        fill(settings_for(folder, sink.url), 1)
        make_users(folder / "marzhook.db", users)
        with Service(folder, sink.url) as service:
            client = service.client()
            client.call("POST", "/api/v1/endpoints/1/disable")
            client.close()
            yield service


def _at_once(service: Service, connections: int, seconds: float) -> float:
    found: list[float] = []
    ready = threading.Barrier(connections)

    def make(number: int) -> None:
        # To log in takes a while, and the server closes connections that are idle for some seconds.
        client = service.client()
        call = maker(client, f"many{number}")
        call()
        ready.wait(60)
        found.append(rate(call, seconds))
        client.close()

    threads = [threading.Thread(target=make, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)
