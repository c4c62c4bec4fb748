"""Milliseconds from an API call's commit to the receiver, at a steady pace, through the real service process.

Marzban's own mean is 15,500 ms: its queue is looked at every 30 s.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from bench import plot
from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.service import Service
from marzhook.cli.bench import percentile

PACES = {50: {}, 200: {"p50": 5.0, "p99": 25.0}}
"""Users made a second, and the goals in milliseconds."""


def measure(options: Options) -> Measured:
    seconds = options.scaled(15, 4)
    figures, curves = [], {}
    for pace, goals in PACES.items():
        found = sorted(1000 * value for value in _at(pace, seconds))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            figures.append(
                Figure(f"POST /api/user at {pace}/s -> received, {name}", percentile(found, share), "ms",
                       at_most=goals.get(name))
            )  # fmt: skip
        curves[f"{pace} a second"] = [(max(0.1, ms), 100 * rank / len(found)) for rank, ms in enumerate(found, 1)]
    title = "From the commit to the receiver"
    plots = {"latency": plot.lines(title, "milliseconds", "% of the events within", curves, log_x=True)}
    return Measured(figures, plots)


def _at(pace: int, seconds: int) -> list[float]:
    """Seconds of each event."""
    count = pace * seconds
    with (
        tempfile.TemporaryDirectory(prefix="marzhook-bench-") as folder,
        receiver(latencies=True) as sink,
        Service(Path(folder), sink.url) as service,
    ):
        client = service.client()
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number / pace - time.monotonic()))
            client.call("POST", "/api/user", json.dumps({"username": f"user{number}", "proxies": {}}).encode())
        service.drained()
        client.close()
        latencies: list[float] = sink.report()["latencies"]
        return latencies
