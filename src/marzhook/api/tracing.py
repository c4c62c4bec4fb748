"""To which trace a call belongs, for what it publishes: the headers `traceparent` and `tracestate` of its caller."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from marzhook import trace_context


class Traced:
    """Keeps the caller's trace for as long as the call takes. Outermost, so that what errors are logged belong to it, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = _kept(scope) if scope["type"] == "http" else ""
        if not text:
            await self.app(scope, receive, send)
            return
        token = trace_context.current.set(text)
        try:
            await self.app(scope, receive, send)
        finally:
            trace_context.current.reset(token)


def _kept(scope: Scope) -> str:
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    if not parents:
        return ""
    states = [value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    return trace_context.kept([value.decode("latin-1") for value in parents], states)
