"""Milliseconds from an API call's commit to the receiver, at a steady pace, through the real service process.

Marzban's own mean is 15,500 ms: its queue is looked at every 30 s.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import psycopg

from bench import plot
from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.service import Service
from bench.workers import KEY, drained, server, shared, worker
from marzhook.cli.bench import environment_for, percentile
from marzhook.store.database import Database

Opened = Callable[[Path, str], AbstractContextManager[tuple[Service, Callable[[], object]]]]

PACES = {50: {}, 200: {"p50": 5.0, "p99": 25.0}}
"""Users made a second, and the goals in milliseconds."""


def measure(options: Options) -> Measured:
    seconds = options.scaled(15, 4)
    figures, curves = [], {}
    for where, opened in (("", _one_process), (", by a worker on PostgreSQL", _worker_beside_the_api)):
        for pace, goals in PACES.items():
            found = sorted(1000 * value for value in _at(pace, seconds, opened))
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                figures.append(
                    Figure(f"POST /api/user at {pace}/s -> received{where}, {name}", percentile(found, share), "ms",
                           at_most=None if where else goals.get(name))
                )  # fmt: skip
            curves[f"{pace} a second{where}"] = [
                (max(0.1, ms), 100 * rank / len(found)) for rank, ms in enumerate(found, 1)
            ]
    title = "From the commit to the receiver"
    plots = {"latency": plot.lines(title, "milliseconds", "% of the events within", curves, log_x=True)}
    return Measured(figures, plots)


def _at(pace: int, seconds: int, opened: Opened) -> list[float]:
    """Seconds of each event."""
    count = pace * seconds
    with (
        tempfile.TemporaryDirectory(prefix="marzhook-bench-") as folder,
        receiver(latencies=True) as sink,
        opened(Path(folder), sink.url) as (service, drained),
    ):
        client = service.client()
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number / pace - time.monotonic()))
            client.call("POST", "/api/user", json.dumps({"username": f"user{number}", "proxies": {}}).encode())
        drained()
        client.close()
        latencies: list[float] = sink.report()["latencies"]
        return latencies


@contextmanager
def _one_process(folder: Path, url: str) -> Iterator[tuple[Service, Callable[[], object]]]:
    with Service(folder, url) as service:
        yield service, service.drained


@contextmanager
def _worker_beside_the_api(folder: Path, url: str) -> Iterator[tuple[Service, Callable[[], object]]]:
    """`marzhook run --no-dispatch` and a `marzhook worker`: only the database tells the one what the other has committed."""
    with server() as postgresql:
        settings = {"MARZHOOK_DATABASE_URL": postgresql.url(), "MARZHOOK_SECRET_KEY": KEY}
        environment = {"PATH": os.environ["PATH"], **environment_for(folder, url, **settings)}
        with (
            Service(folder, url, arguments=("--no-dispatch",), **settings) as service,
            worker(folder, environment),
            psycopg.connect(postgresql.url(), autocommit=True) as looking,
        ):
            database = Database.open(postgresql.url(), secret_keys=[KEY])
            shared(database, 1)
            database.close()
            yield service, partial(drained, looking)
