"""aiohttp: `app.router.add_post("/webhook", handler(receiver))`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from marzhook.receiver.asynchronous import collected, receive
from marzhook.receiver.receiver import Receiver


def handler(receiver: Receiver) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for a route that takes POST. The application's client_max_size does not apply, `receiver.max_body` does."""

    async def marzhook_webhook(request: web.Request) -> web.Response:
        body = await collected(request.content.iter_any(), receiver.max_body)
        # Not request.headers: aiohttp reads them as UTF-8, every other server as Latin-1.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.raw_headers}
        answer = await receive(receiver, headers, body)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    return marzhook_webhook
