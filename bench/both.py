"""Everything at once: sending a backlog at full speed, answering reads, taking events in."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from bench.figure import Figure, Measured, Options, ratio
from bench.ingest import accept, quiet_service, rate
from bench.receiver import receiver
from bench.service import Backlog, Client, Service
from bench.users import make_users
from marzhook.cli.bench import BATCH, USERS
from marzhook.cli.sink import Sink


def measure(options: Options) -> Measured:
    seconds = options.scaled(6, 2)
    # More than can be delivered in that time, so that there is no end of the backlog to notice.
    events = options.scaled(400_000, 60_000)
    idle: list[float] = []
    busy: list[float] = []
    accepting: list[float] = []
    accepting_busy: list[float] = []
    sending: list[float] = []
    sending_busy: list[float] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        backlog = Backlog(Path(made, "backlog"), events, sink.url)
        make_users(Path(made, "backlog", "marzhook.db"), USERS)
        for _ in range(options.rounds):
            with quiet_service(users=USERS) as service:
                client = service.client()
                idle.append(_median_of(partial(_get, client), seconds / 2))
                accepting.append(rate(partial(accept, client), seconds) * BATCH)
                client.close()
            with backlog.service() as service:
                sending.append(_rate_of_sending(sink, seconds))
                client = service.client()
                busy.append(_median_of(partial(_get, client), seconds))
                client.close()
                sink.report()
                begun = time.monotonic()
                accepting_busy.append(_accepted(service, seconds))
                sending_busy.append(sink.report()["count"] / (time.monotonic() - begun))
    return Measured(
        [
            Figure.of("GET /api/user/… idle, median", idle, "ms"),
            Figure.of("GET /api/user/… while a backlog drains, median", busy, "ms"),
            Figure("the one over the other", ratio(busy, idle), "x", at_most=3),
            Figure.of("events accepted, nothing else going on", accepting, "events/s"),
            Figure.of("events accepted while a backlog drains", accepting_busy, "events/s"),
            Figure("the one over the other", ratio(accepting_busy, accepting), "x", at_least=0.3),
            Figure.of("delivered, nothing else going on", sending, "events/s"),
            Figure.of("delivered while events are accepted at full speed", sending_busy, "events/s"),
            Figure("the one over the other", ratio(sending_busy, sending), "x", at_least=0.3),
        ]
    )


def _get(client: Client) -> None:
    client.call("GET", "/api/user/user7")


def _median_of(call: Callable[[], object], seconds: float) -> float:
    """Milliseconds of a call."""
    call()
    end, found = time.perf_counter() + seconds, []
    while (begun := time.perf_counter()) < end:
        call()
        found.append(1000 * (time.perf_counter() - begun))
    return median(found)


def _rate_of_sending(sink: Sink, seconds: float) -> float:
    time.sleep(0.5)  # until it is in full swing
    sink.report()
    begun = time.monotonic()
    time.sleep(seconds)
    return float(sink.report()["count"] / (time.monotonic() - begun))


def _accepted(service: Service, seconds: float) -> float:
    client = service.client()
    try:
        return rate(partial(accept, client), seconds) * BATCH
    finally:
        client.close()
