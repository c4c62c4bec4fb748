"""`marzhook bench`: what this machine and this disk can do, measured in some seconds against a receiver of its own.

The repository's `bench/` compares with others and states goals; this is for operators who want to know what to expect.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from marzhook.cli import output
from marzhook.errors import MarzhookError

if TYPE_CHECKING:
    from marzhook.request import Request
    from marzhook.runtime import Runtime, Services
    from marzhook.settings import Settings

USERS: Final = 1000
"""Users whose events are sent: each one's are in order, so the more there are, the more can go at once."""
CONCURRENCY: Final = 64
BATCH: Final = 1000
PACE: Final = 200
"""Events a second while the latency is measured."""
PACED_SECONDS: Final = 3
PATIENCE: Final = 120.0
"""Seconds that everything may take to arrive."""
SECRET: Final = "measured-on-loopback"


class BenchError(MarzhookError):
    """The measurement did not come to its end."""

    code = "bench_failed"


def bench(
    events: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Events to accept and deliver.")] = 20_000,
    folder: Annotated[
        Path | None, typer.Option(help="Where to put the temporary database: the disk counts. [default: here]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how many events a second this machine accepts and delivers, and how fast one arrives."""
    from marzhook.cli.sink import Sink

    found: dict[str, Any] = {"events": events, "cores": os.cpu_count()}
    try:
        with tempfile.TemporaryDirectory(prefix="marzhook-bench-", dir=folder or Path.cwd()) as made:
            with Sink("--latencies") as sink, running(Path(made), sink.url) as runtime:
                found["latency_ms"] = _paced(runtime, sink.report)
            with Sink() as sink:
                found |= _drained(Path(made, "drain"), sink, events)
                found["bare_per_second"] = events / bare(sink.url, events)
    except OSError as error:
        raise BenchError(f"cannot measure in {folder or Path.cwd()}: {error.strerror or error}") from None
    found["share_of_bare"] = found["delivered_per_second"] / found["bare_per_second"]
    if as_json:
        output.json_document(found)
        return
    latency = found["latency_ms"]
    output.facts(
        [
            ("accepted, on disk", f"{found['accepted_per_second']:,.0f} events/s (batches of {BATCH:,})"),
            ("one commit", f"{found['commit_ms']:.2f} ms (median of single events)"),
            ("delivered", f"{found['delivered_per_second']:,.0f} events/s, each on disk, in order per user"),
            ("without a database", f"{found['bare_per_second']:,.0f} requests/s: what libcurl alone sends here"),
            ("share of that", f"{found['share_of_bare']:.0%}"),
            ("commit to receiver", f"{latency['p50']:.1f} ms median, {latency['p99']:.1f} ms p99 at {PACE} events/s"),
        ]
    )


# -- the parts, which the repository's bench/ uses, too


def settings_for(folder: Path, *urls: str, **more: str) -> Settings:
    """Settings of a service that sends to `urls`; nothing of this process's environment."""
    from marzhook import settings

    return settings.load(environment_for(folder, *urls, **more), None)


def environment_for(folder: Path, *urls: str, **more: str) -> dict[str, str]:
    return {
        "MARZHOOK_DATABASE_URL": f"sqlite:///{folder}/marzhook.db",
        "WEBHOOK_ADDRESS": ",".join(urls),
        "WEBHOOK_SECRET": SECRET,
        # Both signatures at every request.
        "WEBHOOK_SECRET_MODE": "hmac",
        "MARZHOOK_ENDPOINT_CONCURRENCY": str(CONCURRENCY),
        "MARZHOOK_LOG_LEVEL": "warning",
        "SUDO_USERNAME": "root",
        "SUDO_PASSWORD": "only-for-measuring",
        "UVICORN_PORT": "0",
        **more,
    }


@contextmanager
def running(folder: Path, url: str) -> Iterator[Runtime]:
    """The service without its API."""
    from marzhook.runtime import Runtime

    folder.mkdir(exist_ok=True)
    runtime = Runtime(settings_for(folder, url))
    try:
        runtime.start()
        yield runtime
    finally:
        runtime.stop()


def fill(settings: Settings, events: int) -> float:
    """Publish events to the endpoints that the settings name, with nobody sending them; return how many a second."""
    from marzhook.runtime import build_services, environment_endpoints
    from marzhook.store import endpoints

    services = build_services(settings)
    with services.database.write() as tx:
        endpoints.sync_environment(tx, environment_endpoints(settings), now=services.clock.now())
    begun = time.perf_counter()
    for start in range(0, events, BATCH):
        publish(services, range(start, min(start + BATCH, events)))
    seconds = time.perf_counter() - begun
    services.database.close()
    return events / seconds


def publish(services: Services, numbers: range) -> None:
    """One transaction of `user_updated`."""
    from marzhook.event import NewEvent

    batch = [NewEvent("user_updated", f"user{number % USERS}") for number in numbers]
    with services.database.write() as tx:
        services.outbox.publish(tx, batch, now=services.clock.now())


def bare(url: str, count: int, *, ca_file: str | None = None) -> float:
    """Seconds that the transport alone takes for the same requests: nothing on disk, no order. The limit."""
    from marzhook.clock import SystemClock
    from marzhook.transport.http import HttpTransport

    request = rendering(url)
    transport = HttpTransport(SystemClock(), ca_file=ca_file)
    begun = time.perf_counter()
    sent = done = 0
    while done < count:
        while sent < count and transport.in_flight < CONCURRENCY:
            transport.send(request(sent), None)
            sent += 1
        for _, response in transport.poll(1.0):
            if response.status != 200:
                raise BenchError(f"the receiver did not answer: {response.error} {response.message}")
            done += 1
    seconds = time.perf_counter() - begun
    transport.close()
    return seconds


def rendering(url: str) -> Callable[[int], Request]:
    """Makes the request of the event with this number, signed, as the dispatcher sends it."""
    from marzhook import signing
    from marzhook.clock import SystemClock
    from marzhook.delivery import Delivery
    from marzhook.destinations.webhook import Webhook
    from marzhook.endpoint import Endpoint
    from marzhook.event import Event

    clock = SystemClock()
    endpoint = Endpoint(
        1, "bench", "webhook", url, secret=SECRET, secret_mode="hmac", signing_secret=signing.new_secret(),
        source="environment",
    )  # fmt: skip
    target = Webhook(endpoint, instance="bench")

    def request(number: int) -> Request:
        now = clock.now()
        delivery = Delivery(1, Event(number, "user_updated", f"user{number % USERS}", now.timestamp()))
        return target.request([target.item(delivery, now)], [number], now, mode="hmac")

    return request


def wait_until_drained(database: Path, *, patience: float = PATIENCE) -> float:
    """Until nothing is owed; return the moment (monotonic seconds). Raises BenchError."""
    import sqlite3

    deadline = time.monotonic() + patience
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        while connection.execute("SELECT EXISTS (SELECT 1 FROM pending)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise BenchError(f"not everything was delivered within {patience:g} s")
            time.sleep(0.005)
        return time.monotonic()
    finally:
        connection.close()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# -- what the command does with them


def _paced(runtime: Runtime, report: Callable[[], dict[str, Any]]) -> dict[str, float]:
    count = PACE * PACED_SECONDS
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / PACE - time.monotonic()))
        publish(runtime.services, range(number, number + 1))
    wait_until_drained(Path(runtime.services.database.name))
    latencies = report()["latencies"]
    return {"p50": percentile(latencies, 0.5) * 1000, "p99": percentile(latencies, 0.99) * 1000}


def _drained(folder: Path, sink: Any, events: int) -> dict[str, float]:
    from marzhook.runtime import build_services

    folder.mkdir()
    settings = settings_for(folder, sink.url)
    accepted = fill(settings, events)
    with running(folder, sink.url) as runtime:
        end = wait_until_drained(Path(runtime.services.database.name))
    report = sink.report()
    services = build_services(settings)
    commits = []
    for number in range(100):
        begun = time.perf_counter()
        publish(services, range(number, number + 1))
        commits.append(time.perf_counter() - begun)
    services.database.close()
    return {
        "accepted_per_second": accepted,
        "delivered_per_second": report["count"] / (end - report["first"]),
        "commit_ms": percentile(commits, 0.5) * 1000,
    }
