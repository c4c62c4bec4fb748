"""The rate with 1,000,000 pending, beside the rate with few; and how much memory the service takes meanwhile."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench import plot
from bench.figure import Figure, Measured, Options, ratio
from bench.receiver import receiver
from bench.service import Backlog

LIMIT = 150.0
"""Seconds after which the drain of the large backlog is cut: then its rate is known well enough."""


def measure(options: Options) -> Measured:
    large = options.scaled(1_000_000, 40_000)
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        small = Backlog(Path(made, "small"), options.events, sink.url)
        rates = [small.drain(sink)[0]]
        huge = Backlog(Path(made, "huge"), large, sink.url)
        sink.report()
        memory: list[tuple[float, float]] = []
        with huge.service() as service:
            begun = time.monotonic()
            while True:
                time.sleep(0.25)
                memory.append((time.monotonic() - begun, service.rss()))
                if memory[-1][0] > LIMIT or service.idle:
                    break
            end = time.monotonic()
            report = sink.report()
        rates.append(small.drain(sink)[0])
    rate = report["count"] / (end - report["first"])
    speeds = plot.rates(report["bins"], report["first"], step=2.0 if not options.quick else 0.5)
    # The last bin is cut short by the end.
    left = [(large - at * rate, speed) for at, speed in speeds[:-1] if large - at * rate >= 1000]
    early, late = _quarter(memory, 0.25), _quarter(memory, 1.0)
    return Measured(
        [
            Figure(f"delivered with {large:,} pending", rate, "events/s"),
            Figure.of(f"delivered with {options.events:,} pending (before and after)", rates, "events/s"),
            Figure("the one over the other", ratio([rate], rates), "x", at_least=0.9),
            Figure("the service's memory, at most", max(mb for _, mb in memory), "MB", at_most=200),
            Figure("growth from the first to the last quarter", late - early, "MB", at_most=20),
        ],
        {
            "throughput_against_backlog": plot.lines(
                "Throughput against backlog", "deliveries still owed", "events/s", {"Marzhook": left}, log_x=True
            ),
            "memory_against_time": plot.lines(
                f"Memory while {large:,} pending drain", "seconds", "MB", {"Marzhook": memory}
            ),
        },
    )


def _quarter(memory: list[tuple[float, float]], end: float) -> float:
    """The median of the quarter that ends there."""
    part = memory[int(len(memory) * (end - 0.25)) : max(1, int(len(memory) * end))]
    return sorted(mb for _, mb in part)[len(part) // 2]
