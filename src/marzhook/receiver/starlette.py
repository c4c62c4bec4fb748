"""Starlette and FastAPI: `app.add_route("/webhook", endpoint(receiver), methods=["POST"])`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from marzhook.receiver.asynchronous import collected, receive
from marzhook.receiver.receiver import Receiver


def endpoint(receiver: Receiver) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for a route that takes POST; in FastAPI `app.post("/webhook")(endpoint(receiver))` works too."""

    async def marzhook_webhook(request: Request) -> Response:
        body = await collected(request.stream(), receiver.max_body)
        answer = await receive(receiver, request.headers, body)
        return Response(answer.body, answer.status, dict(answer.headers))

    return marzhook_webhook
