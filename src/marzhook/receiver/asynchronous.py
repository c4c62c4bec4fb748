"""What the adapters of asyncio servers share: the receiver works in a thread, `async` handlers on the server's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping

from marzhook.receiver.receiver import Answer, Receiver


async def receive(receiver: Receiver, headers: Mapping[str, str], body: bytes, *, method: str = "POST") -> Answer:
    """`receiver.receive` without holding up the loop: handlers may block, and databases do."""
    loop = asyncio.get_running_loop()

    def run(outcome: Awaitable[object]) -> None:
        asyncio.run_coroutine_threadsafe(_awaited(outcome), loop).result()

    return await asyncio.to_thread(receiver.receive, headers, body, method=method, run=run)


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
