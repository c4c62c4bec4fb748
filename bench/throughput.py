"""Events a second to one fast receiver, beside other ways of sending the same bodies.

Marzhook's events were accepted before; its time runs from the first arrival until the last one is settled on disk.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

from bench import celery_peer
from bench.figure import Figure, Measured, Options, alternating, ratio
from bench.flood import flood
from bench.limit import bare
from bench.receiver import receiver
from bench.service import Backlog
from marzhook.cli.bench import CONCURRENCY, SECRET, USERS, rendering

OURS = "Marzhook: durable, ordered per user, signed, tries on record"
LOGGED = "Marzhook, with a log line for each delivery (the default)"
BARE = "bare libcurl loop, signed (the limit)"
AIOHTTP = "aiohttp, 64 tasks, in memory, signed"
REQUESTS = "requests in a loop, as Marzban sends"
CELERY = "Celery + Redis + requests, 8 processes"


def measure(options: Options) -> Measured:
    count = options.events
    # What is slow tells as much with fewer.
    few, fewer = max(1000, count // 3), max(300, count // 15)
    shares: list[float] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        backlog = Backlog(Path(made, "backlog"), count, sink.url)
        capacity = flood(sink.url, options.scaled(3, 1))

        def ours() -> float:
            before = sink.report()["cpu"]
            rate, report = backlog.drain(sink)
            shares.append((report["cpu"] - before) / (report["last"] - report["first"]))
            return rate

        contenders = {
            OURS: ours,
            LOGGED: lambda: backlog.drain(sink, MARZHOOK_LOG_LEVEL="info")[0],
            BARE: lambda: count / bare(sink.url, count),
            AIOHTTP: lambda: few / aiohttp_loop(sink.url, few),
            REQUESTS: lambda: fewer / requests_loop(sink.url, fewer),
        }
        missing = celery_peer.missing()
        if not missing:
            contenders[CELERY] = lambda: celery_peer.rate(sink, fewer)
        rates = alternating(options.rounds, contenders)
    figures = [Figure.of(name, found, "events/s") for name, found in rates.items()]
    if missing:
        figures.append(Figure(CELERY, None, "events/s", note=f"not installed: {missing}"))
    figures += [
        Figure("Marzhook over the bare libcurl loop", ratio(rates[OURS], rates[BARE]), "x", at_least=0.8),
        Figure("Marzhook over aiohttp", ratio(rates[OURS], rates[AIOHTTP]), "x", at_least=2),
        Figure("Marzhook over requests", ratio(rates[OURS], rates[REQUESTS]), "x", at_least=25),
        Figure("the receiver alone, flooded with the same requests", capacity, "requests/s"),
        Figure("the receiver's capacity over the bare loop", capacity / max(rates[BARE]), "x",
               note="above 1: it is not the bottleneck"),
        Figure.of("the receiver's processor while Marzhook sends", shares, "of a core"),
    ]  # fmt: skip
    return Measured(figures)


def aiohttp_loop(url: str, count: int) -> float:
    import aiohttp

    request = rendering(url)

    async def run() -> float:
        numbers = iter(range(count))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

            async def worker() -> None:
                for number in numbers:
                    made = request(number)
                    async with session.post(url, data=made.body, headers=dict(made.headers)) as answer:
                        await answer.read()

            begun = time.perf_counter()
            await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
            return time.perf_counter() - begun

    return asyncio.run(run())


def requests_loop(url: str, count: int) -> float:
    """As Marzban's sender: a session, one POST after the other, the secret in clear."""
    import requests

    begun = time.perf_counter()
    with requests.Session() as session:
        for number in range(count):
            body = {
                "username": f"user{number % USERS}", "action": "user_updated", "enqueued_at": time.time(), "tries": 0,
            }  # fmt: skip
            session.post(url, data=json.dumps([body]), headers={"x-webhook-secret": SECRET})
    return time.perf_counter() - begun
