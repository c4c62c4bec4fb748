"""The log's lines, also over OTLP, each with the trace that it belongs to."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from marzhook import trace_context
from marzhook.otel.channel import Channel

_SEVERITY: Final = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
_OWN: Final = ("marzhook.otel", "opentelemetry")
"""What these complain of is that nothing can be sent."""
_HERE: Final = ("trace_id", "span_id")


class Lines(logging.Handler):
    """Beside the handler that writes; what the two are told is the same."""

    def __init__(self, channel: Channel, resource: Resource) -> None:
        super().__init__()
        self._channel, self._resource = channel, resource

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OWN):
            return
        rows = getattr(record, "deliveries", None)
        if rows is not None:
            self._channel.put(len(rows), lambda: [self._delivery(record, row) for row in rows])
        else:
            self._channel.put(1, partial(self._line, record, trace_context.current.get()))

    def _line(self, record: logging.LogRecord, text: str) -> list[ReadableLogRecord]:
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception.type"] = record.exc_info[0].__name__
            fields["exception.stacktrace"] = "".join(traceback.format_exception(*record.exc_info))
        return [self._made(record, record.levelname.lower(), record.getMessage(), fields, text[3:35], text[36:52])]

    def _delivery(self, record: logging.LogRecord, row: Mapping[str, Any]) -> ReadableLogRecord:
        level = "warning" if row.get("outcome") == "dead" else "info"
        fields = {name: value for name, value in row.items() if name not in _HERE}
        return self._made(record, level, "delivery", fields, row.get("trace_id", ""), row.get("span_id", ""))

    def _made(
        self, record: logging.LogRecord, level: str, body: str, fields: Mapping[str, Any], trace_id: str, span_id: str
    ) -> ReadableLogRecord:
        context = Context({"marzhook": True})  # never empty: the library would take whatever is current on this thread
        if trace_id:
            # A line that belongs to a trace, and to none of our spans, has the trace alone.
            own = SpanContext(int(trace_id, 16), int(span_id or "0", 16), False, TraceFlags(0))
            context = set_span_in_context(NonRecordingSpan(own), context)
        moment = round(record.created * 1e6) * 1000
        line = LogRecord(
            timestamp=moment,
            observed_timestamp=moment,
            context=context,
            severity_text=level.upper(),
            severity_number=_SEVERITY.get(level, SeverityNumber.INFO),
            body=body,
            attributes=dict(_shown(fields)),
        )
        return ReadableLogRecord(line, self._resource, InstrumentationScope(record.name))


def _shown(fields: Mapping[str, Any]) -> Iterator[tuple[str, str | bool | int | float]]:
    for name, value in fields.items():
        if value is not None:
            yield name, value if isinstance(value, str | bool | int | float) else str(value)
