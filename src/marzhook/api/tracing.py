"""To which trace a call belongs, for what it publishes: the headers `traceparent` and `tracestate` of its caller, and where
calls are recorded, its own span below that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marzhook import trace_context

if TYPE_CHECKING:
    from marzhook.otel.spans import Spans

RECORDED: Final = ("/api/", "/ingest/")
"""Pages, metrics and looks whether all is well are many, and tell nobody anything."""


class Traced:
    """Keeps the trace for as long as the call takes. Outermost, so that what errors are logged belong to it, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        spans: Spans | None = scope["app"].state.services.spans
        text = _kept(scope)
        if spans is not None and scope["path"].startswith(RECORDED):
            await self._recorded(spans, text, scope, receive, send)
        elif text:
            await self._within(text, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _within(self, text: str, scope: Scope, receive: Receive, send: Send) -> None:
        token = trace_context.current.set(text)
        try:
            await self.app(scope, receive, send)
        finally:
            trace_context.current.reset(token)

    async def _recorded(self, spans: Spans, text: str, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span, own = spans.call(scope["method"], text)
        try:
            await self._within(own, scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "")
            spans.answered(span, scope["method"], route, status)


def _kept(scope: Scope) -> str:
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    if not parents:
        return ""
    states = [value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    return trace_context.kept([value.decode("latin-1") for value in parents], states)
