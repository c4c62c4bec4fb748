"""What is traced: calls of the API, publishing, and each try of each delivery.

The first two are spans while they happen. A try's is made afterwards, of what was written down of it, with its own times: the
dispatcher has more to do. Its id is reckoned (`trace_context.span_id`), so the request bore it already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from marzhook import __version__, trace_context
from marzhook.delivery import DELIVERED, PENDING, Settlement
from marzhook.endpoint import Endpoint, masked_url
from marzhook.event import NewEvent
from marzhook.otel.channel import Channel


class Spans:
    """Thread-safe. Texts are those of `trace_context`."""

    def __init__(self, channel: Channel, resource: Resource) -> None:
        self._channel, self._resource = channel, resource
        # Not the global one: who else uses OpenTelemetry in this process is not ours to configure.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(_Into(channel))
        self._tracer = provider.get_tracer("marzhook", __version__)
        self._scope = InstrumentationScope("marzhook", __version__)

    # -- while it happens

    def call(self, method: str, text: str) -> tuple[Span, str]:
        """A call of the API begins; the text is its caller's. To be ended by `answered`."""
        return self._begin(method, SpanKind.SERVER, text)

    def answered(self, span: Span, method: str, route: str, status: int) -> None:
        """`route`: as it is written in the API's reference; never the path itself, which may hold a secret."""
        if span.is_recording():
            span.update_name(f"{method} {route}".strip())
            span.set_attributes({"http.request.method": method, "http.response.status_code": status})
            if route:
                span.set_attribute("http.route", route)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)
        span.end()

    def publishing(self, events: Sequence[NewEvent], after_commit: Callable[[Callable[[], None]], None]) -> str:
        """The text that these events are to keep. The span ends with the commit, and is not told of without one."""
        actions = {event.action for event in events}
        name = f"publish {actions.pop()}" if len(actions) == 1 else "publish"
        span, text = self._begin(name, SpanKind.PRODUCER, trace_context.current.get())
        span.set_attributes({"messaging.system": "marzhook", "messaging.batch.message_count": len(events)})
        # Named arguments make no two of them equal.
        after_commit(partial(_end, span))
        return text

    def _begin(self, name: str, kind: SpanKind, text: str) -> tuple[Span, str]:
        parent, state = Context(), text.partition(" ")[2]
        if text:
            parent = set_span_in_context(NonRecordingSpan(_context(text, text[36:52], remote=True)), parent)
        span = self._tracer.start_span(name, parent, kind)
        made = span.get_span_context()
        own = f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags:02x}"
        return span, own + (state and f" {state}")

    # -- afterwards

    def tries(self, batch: Sequence[Settlement], endpoints: Mapping[int, Endpoint]) -> None:
        """These were written down, those of one request next to each other."""
        count = sum(1 for s in batch if _recorded(s))
        if count:
            self._channel.put(count, lambda: list(self._tries(batch, endpoints)))

    def _tries(self, batch: Sequence[Settlement], endpoints: Mapping[int, Endpoint]) -> Iterator[ReadableSpan]:
        began, first = None, None
        for s in batch:
            # What came of one request shares the very moment at which that began.
            if s.attempt.at is not began:
                began, first = s.attempt.at, None
            if s.delivery.event.traceparent:
                first = first or s
                if _recorded(s):
                    yield self._try(s, first, endpoints.get(s.delivery.endpoint_id))

    def _try(self, s: Settlement, first: Settlement, endpoint: Endpoint | None) -> ReadableSpan:
        """`first`: whose trace the request carried on."""
        event, attempt = s.delivery.event, s.attempt
        start = round(attempt.at.timestamp() * 1e6) * 1000
        text = event.traceparent
        # Made by hand: what the library starts and ends would be sampled and given an id anew, at ten times the price.
        return ReadableSpan(
            f"deliver {event.action}",
            context=_context(text, _span_id(s)),
            parent=_context(text, text[36:52], remote=True),
            resource=self._resource,
            attributes=_attributes(s, endpoint),
            links=() if first is s else (Link(_context(first.delivery.event.traceparent, _span_id(first))),),
            kind=SpanKind.CLIENT,
            status=Status() if s.state == DELIVERED else Status(StatusCode.ERROR, attempt.message or None),
            start_time=start,
            end_time=start + round(attempt.duration * 1e9),
            instrumentation_scope=self._scope,
        )


class _Into(SpanProcessor):
    """Spans that end go into the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._channel.put(1, lambda: (span,))


def _end(span: Span) -> None:
    span.end()


def _recorded(s: Settlement) -> bool:
    text = s.delivery.event.traceparent
    return bool(text) and trace_context.sampled(text)


def _span_id(s: Settlement) -> str:
    delivery = s.delivery
    event = delivery.event
    return trace_context.span_id(event.traceparent, delivery.endpoint_id, event.id, s.attempt.number)


def _context(text: str, span_id: str, *, remote: bool = False) -> SpanContext:
    state = text.partition(" ")[2]
    return SpanContext(
        int(text[3:35], 16), int(span_id, 16), remote, TraceFlags(int(text[53:55], 16)),
        TraceState.from_header([state]) if state else None,
    )  # fmt: skip


def _attributes(s: Settlement, endpoint: Endpoint | None) -> dict[str, str | int]:
    event, attempt = s.delivery.event, s.attempt
    found: dict[str, str | int] = {
        "http.request.method": "POST",
        "marzhook.event": event.id,
        "marzhook.action": event.action,
        "marzhook.username": event.username,
        "marzhook.outcome": "failed" if s.state == PENDING else s.state,
        "marzhook.tries": s.tries,
    }
    if attempt.number > 1:
        found["http.request.resend_count"] = attempt.number - 1
    if attempt.status is not None:
        found["http.response.status_code"] = attempt.status
    if s.state != DELIVERED:
        found["error.type"] = attempt.error or str(attempt.status)
    if endpoint is not None:
        parts = urlsplit(endpoint.url)
        found |= {
            "marzhook.endpoint": f"{endpoint.id}:{endpoint.name}",
            "url.full": masked_url(endpoint.url),
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
    return found
