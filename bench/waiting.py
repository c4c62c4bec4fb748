"""What waits costs the others nothing: a user with 100,000 events pending, 100,000 users whose first event waits for a retry.

The same events of other users are delivered each time, at the same endpoint; beside and behind them waits what must not be
noticed, in the rate, in the time until a new event arrives, and in memory.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.figure import Figure, Measured, Options, ratio
from bench.receiver import receiver
from bench.service import Service
from marzhook.cli.bench import BATCH, USERS, percentile, settings_for
from marzhook.cli.sink import Sink
from marzhook.event import NewEvent
from marzhook.runtime import Services, build_services, environment_endpoints
from marzhook.store import endpoints

WELL, FAILING = 1, 2
"""Endpoints by id."""
HOUR = 3600
PACE = 50
"""Events a second while latency is measured."""


@dataclass
class Run:
    rate: float
    p50: float
    memory: float


def measure(options: Options) -> Measured:
    waiting = options.scaled(100_000, 20_000)
    # Enough that the start, at which all that waits is read once, is not what is measured.
    events = options.scaled(100_000, 20_000)
    cases: dict[str, Callable[[Services], None]] = {
        "alone": lambda _: None,
        f"beside a failing endpoint that is owed {waiting:,} of one user": lambda s: _publish(
            s, FAILING, ["u"] * waiting
        ),
        f"behind one user with {waiting:,}, of which the first waits": lambda s: _stuck(s, ["stuck"] * waiting),
        f"behind {waiting:,} users who wait": lambda s: _stuck(s, [f"waits{number}" for number in range(waiting)]),
    }
    found: dict[str, list[Run]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, socket.socket() as refusing:
        # Bound and not listening: nobody else gets the port, and whoever connects is refused.
        refusing.bind(("127.0.0.1", 0))
        with receiver(latencies=True) as sink:
            urls = (sink.url, f"http://127.0.0.1:{refusing.getsockname()[1]}/")
            # Alone before and after: what else the machine does changes meanwhile.
            for number, name in enumerate([*cases, "alone"]):
                folder = Path(made, str(number))
                _fill(folder, urls, cases[name], events)
                found[name].append(_run(folder, urls, sink, events, options))
    return Measured(_figures(found))


def _figures(found: dict[str, list[Run]]) -> list[Figure]:
    (alone_name, alone), *others = found.items()
    rates = [run.rate for run in alone]
    latency, memory = median(run.p50 for run in alone), median(run.memory for run in alone)
    figures = [
        Figure.of(f"events of others, {alone_name}", rates, "events/s"),
        Figure(f"p50 of a new event, {alone_name}", latency, "ms"),
        Figure("the service's memory, alone", memory, "MB"),
    ]
    for name, runs in others:
        figures += [
            Figure(f"rate {name}, over alone", ratio([run.rate for run in runs], rates), "x", at_least=0.9),
            Figure("  p50 of a new event", median(run.p50 for run in runs), "ms"),
            Figure("  more memory than alone", median(run.memory for run in runs) - memory, "MB", at_most=10),
        ]
    return figures


def _fill(folder: Path, urls: tuple[str, str], prepare: Callable[[Services], None], events: int) -> None:
    folder.mkdir()
    settings = settings_for(folder, *urls)
    services = build_services(settings)
    with services.database.write() as tx:
        endpoints.sync_environment(tx, environment_endpoints(settings), now=services.clock.now())
    prepare(services)
    _publish(services, WELL, [f"user{number % USERS}" for number in range(events)])
    services.database.close()


def _publish(services: Services, endpoint_id: int, usernames: list[str]) -> None:
    for start in range(0, len(usernames), BATCH):
        new = [NewEvent("user_updated", name) for name in usernames[start : start + BATCH]]
        with services.database.write() as tx:
            services.outbox.publish(tx, new, now=services.clock.now(), only_to=endpoint_id)


def _stuck(services: Services, usernames: list[str]) -> None:
    """The first event of each of these users has failed, and waits for an hour."""
    _publish(services, WELL, usernames)
    due = services.clock.now().timestamp() + HOUR
    with services.database.write() as tx:
        tx.conn.exec_driver_sql(
            "UPDATE pending SET tries = 1, attempts = 1, due_at = ?"
            " WHERE event_id IN (SELECT min(id) FROM events GROUP BY username)",
            (due,),
        )


def _run(folder: Path, urls: tuple[str, str], sink: Sink, events: int, options: Options) -> Run:
    sink.report()
    with Service(folder, *urls) as service:
        report = _arrived(sink, events)
        rate = report[0] / (report[2] - report[1])
        client = service.client()
        begun, count = time.monotonic(), PACE * options.scaled(6, 2)
        for number in range(count):
            time.sleep(max(0.0, begun + number / PACE - time.monotonic()))
            client.call(
                "POST", "/api/v1/events", b'{"username": "user%d", "action": "user_updated"}' % (number % USERS)
            )
        client.close()
        latencies = _arrived(sink, count)[3]
        return Run(rate, percentile(latencies, 0.5) * 1000, service.rss())


def _arrived(sink: Sink, count: int) -> tuple[int, float, float, list[float]]:
    """How many came, the moments of the first and of the last one, and the latencies, once `count` have come."""
    deadline = time.monotonic() + 90
    first, last, came = 0.0, 0.0, 0
    latencies: list[float] = []
    while came < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{came} of {count} arrived")
        time.sleep(0.1)
        report = sink.report()
        if report["count"]:
            came += report["count"]
            first, last = first or report["first"], report["last"]
            latencies += report["latencies"]
    return came, first, last, latencies
