"""Ten endpoints of which one hangs, one refuses connections and one takes 2 s: what the other seven notice of it.

Compared with the seven alone, in turn: the rate while everybody has a backlog, then the latencies at a steady pace.
"""

from __future__ import annotations

import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import plot
from bench.figure import Figure, Measured, Options, ratio
from bench.receiver import receiver
from bench.service import Backlog, Service
from marzhook.cli.bench import USERS, percentile
from marzhook.cli.sink import Sink

HEALTHY = 7
PACE = 20
"""Events a second, each for every endpoint."""
SETTINGS = {"MARZHOOK_ENDPOINT_CONCURRENCY": "32"}


@dataclass
class Run:
    rate: float
    """Events a second that the seven got together, while all had a backlog."""
    p99: float
    bins: list[tuple[float, float]]
    first: float


def measure(options: Options) -> Measured:
    rounds = 1 if options.quick else 2
    each = max(500, options.events // HEALTHY)
    with_sick: list[Run] = []
    alone: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, socket.socket() as refusing:
        # Bound and not listening: nobody else gets the port, and whoever connects is refused.
        refusing.bind(("127.0.0.1", 0))
        with receiver(*["fast"] * HEALTHY, "hang", "slow", latencies=True) as sink:
            healthy = sink.urls[:HEALTHY]
            sick = [*sink.urls[HEALTHY : HEALTHY + 2], f"http://127.0.0.1:{refusing.getsockname()[1]}/"]
            seven = Backlog(Path(made, "seven"), each, *healthy, **SETTINGS)
            ten = Backlog(Path(made, "ten"), each, *healthy, *sick, **SETTINGS)
            for _ in range(rounds):
                alone.append(_run(seven, sink, options))
                with_sick.append(_run(ten, sink, options))
    rates = [run.rate for run in with_sick], [run.rate for run in alone]
    p99s = [run.p99 for run in with_sick], [run.p99 for run in alone]
    return Measured(
        [
            Figure.of("seven healthy endpoints beside three sick ones, together", rates[0], "events/s"),
            Figure.of("the same seven alone", rates[1], "events/s"),
            Figure("the one over the other", ratio(*rates), "x", at_least=0.95),
            Figure.of(f"p99 of the seven beside the sick, at {PACE} events/s each", p99s[0], "ms"),
            Figure.of("p99 of the seven alone", p99s[1], "ms"),
            Figure("the other over the one", ratio(p99s[1], p99s[0]), "x", at_least=0.95),
        ],
        {
            "healthy_beside_sick": plot.lines(
                "Seven healthy endpoints, with and without three sick ones beside them",
                "seconds",
                "events/s, together",
                {
                    "beside three sick": plot.rates(with_sick[-1].bins, with_sick[-1].first, step=0.2),
                    "alone": plot.rates(alone[-1].bins, alone[-1].first, step=0.2),
                },
            )
        },
    )


def _run(backlog: Backlog, sink: Sink, options: Options) -> Run:
    sink.report()
    with backlog.service() as service:
        report = _arrived(sink, backlog.events * HEALTHY)
        latencies = _paced(service, sink, options.scaled(8, 3))
    rate = report["count"] / (report["last"] - report["first"])
    return Run(rate, percentile(latencies, 0.99) * 1000, report["bins"], report["first"])


def _paced(service: Service, sink: Sink, seconds: int) -> list[float]:
    """Latencies (seconds) at a steady pace."""
    client = service.client()
    begun = time.monotonic()
    for number in range(PACE * seconds):
        time.sleep(max(0.0, begun + number / PACE - time.monotonic()))
        body = b'{"username": "user%d", "action": "user_updated"}' % (number % USERS)
        client.call("POST", "/api/v1/events", body)
    client.close()
    found: list[float] = _arrived(sink, PACE * seconds * HEALTHY)["latencies"]
    return found


def _arrived(sink: Sink, count: int, patience: float = 60.0) -> dict[str, Any]:
    """Reports together, once so many have come, or the time is up."""
    deadline = time.monotonic() + patience
    whole: dict[str, Any] = {"count": 0, "first": None, "last": None, "bins": [], "latencies": []}
    while whole["count"] < count and time.monotonic() < deadline:
        time.sleep(0.2)
        report = sink.report()
        whole["count"] += report["count"]
        whole["first"] = whole["first"] or report["first"]
        whole["last"] = report["last"] or whole["last"]
        whole["bins"] += report["bins"]
        whole["latencies"] += report["latencies"] or []
    if whole["count"] < count:
        raise RuntimeError(f"{whole['count']} of {count} arrived within {patience:g} s")
    return whole
