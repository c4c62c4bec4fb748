"""What the adapters of asyncio servers share: the receiver works in a thread, `async` handlers on the server's loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Mapping
from concurrent import futures
from weakref import WeakKeyDictionary

from marzhook.receiver.receiver import Answer, Receiver

# Threads of our own: a handler may wait for one of the loop's (every look-up of a name is made in one), while the receiver's
# waits for the handler. They belong to a loop, and end with it.
_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, futures.ThreadPoolExecutor] = WeakKeyDictionary()
LOOK_AGAIN = 1.0
"""Seconds after which a thread looks whether the loop is still there that it waits for."""


async def receive(receiver: Receiver, headers: Mapping[str, str], body: bytes, *, method: str = "POST") -> Answer:
    """`receiver.receive` without holding up the loop: handlers may block, and databases do."""
    loop = asyncio.get_running_loop()

    def run(outcome: Awaitable[object]) -> None:
        handled = asyncio.run_coroutine_threadsafe(_awaited(outcome), loop)
        while not futures.wait([handled], LOOK_AGAIN).done and not loop.is_closed():
            pass
        # Of a loop that was closed meanwhile nothing more comes, and the process would not end.
        handled.result(0)

    def work() -> Answer:
        return context.run(receiver.receive, headers, body, method=method, run=run)

    context = contextvars.copy_context()
    threads = _threads.get(loop) or _threads.setdefault(loop, futures.ThreadPoolExecutor(thread_name_prefix="marzhook"))
    return await loop.run_in_executor(threads, work)


async def collected(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """All of it, or its first bytes, more than `limit`: the receiver then refuses it without the rest being read."""
    found = bytearray()
    async for chunk in chunks:
        found += chunk
        if len(found) > limit:
            break
    return bytes(found)


async def _awaited(outcome: Awaitable[object]) -> None:
    await outcome
