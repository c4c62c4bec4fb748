"""Flask: `app.post("/webhook")(view(receiver))`."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response, request

from marzhook.receiver.receiver import Receiver


def view(receiver: Receiver) -> Callable[[], Response]:
    """A view function for a route that takes POST."""

    def marzhook_webhook() -> Response:
        # Not get_data(): it would read whatever comes, and keep it.
        body = request.stream.read(receiver.max_body + 1)
        answer = receiver.receive(dict(request.headers), body)
        return Response(answer.body, answer.status, dict(answer.headers))

    return marzhook_webhook
