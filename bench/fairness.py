"""1,000 endpoints, ten of them with huge backlogs: how soon a new event to one of the quiet ones arrives."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import plot
from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.service import Service
from marzhook.cli.bench import BATCH, USERS, percentile, settings_for
from marzhook.cli.sink import Sink
from marzhook.event import NewEvent
from marzhook.runtime import build_services
from marzhook.store import endpoints, stats
from marzhook.store.database import Database

ENDPOINTS = 1000
BUSY = 10
PACE = 20
"""Events a second, each for one quiet endpoint."""
WARM_UP = 3
"""Seconds that do not count: a start looks once at what each endpoint is owed."""
SETTINGS = {"MARZHOOK_ALLOW_ADDRESSES": "127.0.0.0/8"}


def measure(options: Options) -> Measured:
    seconds = options.scaled(15, 4)
    backlog = options.scaled(50_000, 10_000)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as busy:
        for name, each in (("idle", 0), ("beside", backlog)):
            folder = Path(made, name)
            with receiver(latencies=True) as quiet:
                _prepare(folder, busy.url, quiet.url, each)
                found[name] = [1000 * value for value in _paced(folder, quiet, seconds, busy=each > 0)]
    alone, beside = found["idle"], found["beside"]
    title = f"A new event to one of {ENDPOINTS - BUSY} quiet endpoints"
    curves = {name: _shares(values) for name, values in (("alone", alone), (f"beside {BUSY} backlogs", beside))}
    return Measured(
        [
            Figure(f"{title}, p50 beside {BUSY} with {backlog:,} pending", percentile(beside, 0.5), "ms", at_most=50),
            Figure("p99 beside them", percentile(beside, 0.99), "ms"),
            Figure("p50 while nothing else is owed", percentile(alone, 0.5), "ms"),
            Figure("p99 while nothing else is owed", percentile(alone, 0.99), "ms"),
        ],
        {"fair_shares": plot.lines(title, "milliseconds", "% of the events within", curves, log_x=True)},
    )


def _prepare(folder: Path, busy: str, quiet: str, backlog: int) -> None:
    """Endpoints of which each wants one action that nobody else does; the first are owed a backlog."""
    folder.mkdir()
    services = build_services(settings_for(folder, **SETTINGS))
    with services.database.write() as tx:
        for number in range(ENDPOINTS):
            url = f"{busy if number < BUSY else quiet}{number}"
            actions = frozenset({f"action{number}"})
            endpoints.create(tx, now=services.clock.now(), kind="webhook", url=url, source="api", actions=actions)
    for start in range(0, backlog, BATCH // BUSY):
        new = [
            NewEvent(f"action{number}", f"user{i % USERS}")
            for i in range(start, start + BATCH // BUSY)
            for number in range(BUSY)
        ]
        with services.database.write() as tx:
            services.outbox.publish(tx, new, now=services.clock.now())
    services.database.close()


def _paced(folder: Path, quiet: Sink, seconds: int, *, busy: bool) -> list[float]:
    """Seconds from the commit to the receiver, of each event."""
    chance = random.Random(7)
    count = PACE * seconds
    with Service(folder, **SETTINGS) as service:
        client = service.client()
        begun = time.monotonic()
        for number in range(-WARM_UP * PACE, count):
            time.sleep(max(0.0, begun + (WARM_UP + number / PACE) - time.monotonic()))
            if number == 0:
                _arrived(quiet, WARM_UP * PACE)
            event = {"username": f"user{number}", "action": f"action{chance.randrange(BUSY, ENDPOINTS)}"}
            client.call("POST", "/api/v1/events", json.dumps(event).encode())
        client.close()
        left = _pending(service.database)
        latencies = _arrived(quiet, count)
    if busy and min(left[:BUSY]) == 0:
        raise RuntimeError("a backlog was delivered before the measurement had ended: make it larger")
    return latencies


def _pending(path: Path) -> Sequence[int]:
    database = Database.open(f"sqlite:///{path}")
    with database.read() as conn:
        counts = stats.pending_counts(conn)
    database.close()
    return [counts[id_] for id_ in sorted(counts)]


def _arrived(sink: Sink, count: int) -> list[float]:
    """Once so many have come; those that take longer than 30 s are the measurement's failure."""
    deadline = time.monotonic() + 30
    latencies: list[float] = []
    while len(latencies) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(latencies)} of {count} arrived")
        time.sleep(0.1)
        latencies += sink.report()["latencies"]
    return latencies


def _shares(values: list[float]) -> list[tuple[float, float]]:
    return [(max(0.1, ms), 100 * rank / len(values)) for rank, ms in enumerate(sorted(values), 1)]
