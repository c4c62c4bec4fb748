"""Job queues on PostgreSQL from PyPI, whose job makes the same HTTP call: aiohttp, 64 at a time. Where they are installed.

A job is done when its row says so, on the same server and disk; order per user, signatures and a record of each try they do
not have.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from marzhook.cli.bench import CONCURRENCY, SECRET, USERS
from marzhook.cli.sink import Sink


def _missing(*names: str) -> str:
    return ", ".join(name for name in names if importlib.util.find_spec(name) is None)


PROCRASTINATE, PGQUEUER = "procrastinate, 1 worker", "pgqueuer, 1 worker"
PEERS: dict[str, Callable[[], str]] = {
    PROCRASTINATE: partial(_missing, "procrastinate"),
    PGQUEUER: partial(_missing, "pgqueuer", "asyncpg"),
}
"""What each lacks to be measured; empty: nothing."""
_databases = count(1)


def rate(name: str, postgresql: Any, sink: Sink, jobs: int) -> float:
    """Jobs a second from the first arrival until the queue is empty; all were queued before."""
    database = f"peer_{next(_databases)}"
    postgresql.sql("CREATE DATABASE {}", database)
    sink.report()
    # A process of its own, as a worker is one.
    ended: Any = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(name, postgresql.url(database), postgresql.tcp_url(database), sink.url, jobs, ended)
    )
    process.start()
    end = ended.get(timeout=300)
    process.join(30)
    report = sink.report()
    postgresql.sql("DROP DATABASE {} WITH (FORCE)", database)
    if report["count"] != jobs:
        raise RuntimeError(f"{name} made {report['count']} of {jobs} calls")
    return jobs / (float(end) - float(report["first"]))


def _work(name: str, socket_url: str, tcp_url: str, target: str, jobs: int, ended: Any) -> None:
    if name == PROCRASTINATE:
        asyncio.run(_procrastinate(socket_url, target, jobs))
    else:
        asyncio.run(_pgqueuer(tcp_url, target, jobs))
    ended.put(time.monotonic())


def _body(number: int) -> str:
    return json.dumps(
        {"username": f"user{number % USERS}", "action": "user_updated", "enqueued_at": time.time(), "tries": 0}
    )


async def _procrastinate(url: str, target: str, jobs: int) -> None:
    import aiohttp
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=16))
    async with (
        app.open_async(),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session,
    ):
        await app.schema_manager.apply_schema_async()

        @app.task(name="send")
        async def send(body: str) -> None:
            async with session.post(target, data=body, headers={"x-webhook-secret": SECRET}) as answer:
                await answer.read()

        for start in range(0, jobs, 1000):
            await send.batch_defer_async(*[{"body": _body(n)} for n in range(start, min(start + 1000, jobs))])
        await app.run_worker_async(concurrency=CONCURRENCY, wait=False, listen_notify=False)


async def _pgqueuer(url: str, target: str, jobs: int) -> None:
    import aiohttp
    import asyncpg
    from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries
    from pgqueuer.domain.types import QueueExecutionMode

    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    for start in range(0, jobs, 1000):
        numbers = range(start, min(start + 1000, jobs))
        await queries.enqueue(["send"] * len(numbers), [_body(n).encode() for n in numbers], [0] * len(numbers))
    queue = PgQueuer(driver)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

        @queue.entrypoint("send")
        async def send(job: Job) -> None:
            async with session.post(target, data=job.payload, headers={"x-webhook-secret": SECRET}) as answer:
                await answer.read()

        await queue.run(batch_size=CONCURRENCY, mode=QueueExecutionMode.drain)
    await connection.close()
