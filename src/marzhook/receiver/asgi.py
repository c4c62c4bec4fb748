"""ASGI 3: `application(receiver)` is a whole application, for uvicorn, hypercorn, granian or to be mounted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from marzhook.receiver.asynchronous import collected, receive
from marzhook.receiver.receiver import Receiver

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def application(receiver: Receiver) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """An application that takes webhooks at every path it is asked for."""

    async def marzhook_webhook(scope: Scope, receive_: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive_, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"a webhook is HTTP, not {scope['type']}")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            body = await collected(_chunks(receive_), receiver.max_body)
        except ConnectionError:
            return
        answer = await receive(receiver, headers, body, method=scope["method"])
        head = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
        named = [(name.lower().encode(), value.encode()) for name, value in head]
        await send({"type": "http.response.start", "status": answer.status, "headers": named})
        await send({"type": "http.response.body", "body": answer.body})

    return marzhook_webhook


async def _chunks(receive_: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive_()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the sender hung up")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _lifespan(receive_: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive_()
        await send({"type": f"lifespan.{phase}.complete"})
