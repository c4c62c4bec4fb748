"""An endpoint comes back after an outage with 100,000 pending: how soon the first one arrives, and how fast the rest."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from bench import plot
from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.service import Backlog
from marzhook.cli.bench import BenchError

OUTAGE = 12.0
"""Seconds. Probes are made 5 s after the endpoint was given up, then 10 s after that."""
PROBE_INTERVAL = 10.0 * 1.25
"""Seconds: the interval that the outage reaches, and its jitter."""
LIMIT = 90.0
"""Seconds that the recovery may take before it is given up."""


def measure(options: Options) -> Measured:
    pending = options.scaled(100_000, 10_000)
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        backlog = Backlog(Path(made, "backlog"), pending, sink.url)
        # What it takes without an outage.
        rate, _ = backlog.drain(sink)
        sink.ask("/status/503")
        sink.report()
        with backlog.service() as service:
            time.sleep(OUTAGE)
            wasted = sink.ask("/status/200")["refused"]
            back = time.monotonic()
            try:
                end: float | None = service.drained(patience=LIMIT)
            except BenchError:
                end = None
            report = sink.report()
    return Measured(_figures(report, pending, rate, back, end, wasted), _plots(report, back))


def _figures(
    report: dict[str, Any], pending: int, rate: float, back: float, end: float | None, wasted: int
) -> list[Figure]:
    ideal = pending / rate
    first = report["first"]
    late = "" if end else f"not all arrived within {LIMIT:g} s: {report['count']:,} of {pending:,}"
    return [
        Figure("requests made during the outage", wasted, "requests", note=f"{OUTAGE:g} s of 503"),
        Figure("back -> first one arrives", first - back if first else None, "s", at_most=PROBE_INTERVAL),
        Figure(f"first -> last of {pending:,} on disk", end - first if end and first else None, "s", note=late),
        Figure("ideal: the backlog over the rate without an outage", ideal, "s"),
        Figure("the one over the other", (end - first) / ideal if end and first else float("inf"), "x", at_most=1.3),
    ]


def _plots(report: dict[str, Any], back: float) -> dict[str, str]:
    points = [(max(0.0, at), speed) for at, speed in plot.rates(report["bins"], back)]
    title = "The drain after an outage (0: the endpoint is back)"
    return {"drain_after_outage": plot.lines(title, "seconds", "events/s", {"arrivals": [(0.0, 0.0), *points]})}
