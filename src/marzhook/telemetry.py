"""What the service tells about itself: log lines and metrics.

Text on a terminal, JSON lines elsewhere. A line's data goes in as `logger.info("…", extra={"fields": {...}})`; whoever
writes a line keeps secrets out of it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from marzhook.errors import MarzhookError

log = logging.getLogger(__name__)

FORMATS: Final = ("auto", "text", "json")
_CORE: Final = frozenset({"ts", "level", "logger", "message", "exception"})
# Kept, because json.dumps with an option builds a new encoder for every line.
_encode = json.JSONEncoder(default=str).encode


def configure_logging(format: str, level: str, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (None: stderr). Marzhook's loggers get `level`, the libraries' at least warning."""
    if format not in FORMATS:
        raise ValueError(f"the log format is one of {', '.join(FORMATS)}, not {format!r}")
    stream = sys.stderr if stream is None else stream
    text = format == "text" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JSONFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("marzhook").setLevel(number)


def log_deliveries(logger: logging.Logger, rows: Sequence[Mapping[str, object]]) -> None:
    """One line for each row, all in one write. A row has `outcome` and whatever else is to be told, and no secret.

    A dead letter is a warning, everything else is info, so with the level at warning only the dead letters are written.
    """
    if not logger.isEnabledFor(logging.INFO):
        if not logger.isEnabledFor(logging.WARNING):
            return
        rows = [row for row in rows if row.get("outcome") == "dead"]
    if not rows:
        return
    # The batch is one record, so that it passes handlers, filters and locks once; our formatters unfold it.
    dead = any(row.get("outcome") == "dead" for row in rows)
    level = logging.WARNING if dead else logging.INFO
    record = logger.makeRecord(
        logger.name, level, "", 0, "%d delivery outcomes", (len(rows),), None, extra={"deliveries": rows}
    )
    logger.handle(record)


def _level_of(row: Mapping[str, object]) -> str:
    return "warning" if row.get("outcome") == "dead" else "info"


class JSONFormatter(logging.Formatter):
    """One JSON object a line: ts (ISO 8601, UTC, milliseconds), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rows = getattr(record, "deliveries", None)
        if rows is not None:
            return self._unfold(ts, record.name, rows)
        line: dict[str, object] = {
            "ts": ts,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in getattr(record, "fields", {}).items():
            line[f"{name}_" if name in _CORE else name] = value
        if trace := _exception(record):
            line["exception"] = trace
        return _encode(line)

    def _unfold(self, ts: str, logger: str, rows: Sequence[Mapping[str, object]]) -> str:
        heads: dict[str, str] = {}
        lines = []
        for row in rows:
            level = _level_of(row)
            if level not in heads:
                head = {"ts": ts, "level": level, "logger": logger, "message": "delivery"}
                heads[level] = _encode(head)[:-1] + ", "
            # The rows are ours and hold none of the keys in the head.
            lines.append(heads[level] + _encode(row if type(row) is dict else dict(row))[1:])
        return "\n".join(lines)


class TextFormatter(logging.Formatter):
    """`time LEVEL message  key=value …`, in local time; nothing that comes from outside can start a new line."""

    def format(self, record: logging.LogRecord) -> str:
        ts = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        rows = getattr(record, "deliveries", None)
        if rows is not None:
            return "\n".join(_text_line(ts, _level_of(row), "delivery", row) for row in rows)
        message = _plain(record.getMessage())
        line = _text_line(ts, record.levelname.lower(), message, getattr(record, "fields", {}))
        trace = _exception(record)
        return f"{line}\n{trace}" if trace else line


def _text_line(ts: str, level: str, message: str, fields: Mapping[str, object]) -> str:
    extras = " ".join(f"{name}={_word(value)}" for name, value in fields.items())
    return f"{ts} {level.upper():7} {message}" + (f"  {extras}" if extras else "")


def _word(value: object) -> str:
    text = str(value)
    # What would make the line ambiguous, or a terminal misbehave, is quoted.
    if text and text.isprintable() and not any(c in text for c in ' "='):
        return text
    return _encode(text) if not text.isprintable() else json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    return text if text.isprintable() else _encode(text)[1:-1].replace('\\"', '"')


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
# A delivery may wait for days: the retry schedule's own steps.
_DELIVERY_SECONDS: Final = (*_SECONDS, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0, 86_400.0, 259_200.0)


class Try(NamedTuple):
    """One try, as the metrics count it."""

    endpoint: str
    result: str | int | None
    """A status, or one of `delivery.ERRORS`."""
    seconds: float
    outcome: str | None = None
    """What the delivery came to with it (delivered, dead); None: it is to be tried again."""
    latency: float = 0.0
    """Seconds since the event's commit."""


class _Durations(Collector):
    """A histogram for each endpoint, which takes values by the batch: the library's own would take two locks for each."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, bounds
        self._lock = threading.Lock()
        self._of: dict[str, tuple[list[int], list[float]]] = {}
        """For each endpoint how many fell into each bucket (the last: above all bounds), and the sum of all."""

    def observe(self, endpoint: str, values: Iterable[float]) -> None:
        with self._lock:
            counts, total = self._of.setdefault(endpoint, ([0] * (len(self._bounds) + 1), [0.0]))
            for value in values:
                counts[bisect_left(self._bounds, value)] += 1
                total[0] += value

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=("endpoint",))
        with self._lock:
            for endpoint, (counts, total) in self._of.items():
                bounds = (*map(floatToGoString, self._bounds), "+Inf")
                family.add_metric((endpoint,), list(zip(bounds, accumulate(counts), strict=True)), total[0])
        yield family


class Metrics:
    """The figures of `/metrics`. Thread-safe. The label `endpoint` is `id:name`, given by the caller."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        endpoint = ("endpoint",)
        self._deliveries = Counter(
            "marzhook_deliveries_total", "Deliveries settled.", ("endpoint", "outcome"), registry=registry
        )
        self._attempts = Counter("marzhook_attempts_total", "Tries made.", ("endpoint", "result"), registry=registry)
        self._published = Counter("marzhook_events_published_total", "Events published.", registry=registry)
        self._review_errors = Counter(
            "marzhook_review_errors_total", "Users that the review had to skip.", registry=registry
        )
        self._pruned = Counter(
            "marzhook_pruned_total", "Rows removed because they were too old.", ("what",), registry=registry
        )
        self._ingested = Counter(
            "marzhook_ingested_total", "Events that panels sent: new, duplicate or rejected.", ("source", "outcome"),
            registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "marzhook_ingest_refused_total", "Panels' requests that were refused as a whole.", ("source", "code"),
            registry=registry,
        )  # fmt: skip
        self._polled = Counter(
            "marzhook_polled_total", "Events found by following panels.", ("source",), registry=registry
        )
        self._source_age = Gauge(
            "marzhook_source_age_seconds", "Since all users of a followed panel were last seen.", ("source",),
            registry=registry,
        )  # fmt: skip
        self._source_failing = Gauge(
            "marzhook_source_failing", "1: this panel cannot be followed just now.", ("source",), registry=registry
        )
        self._delivery_seconds = _Durations(
            "marzhook_delivery_seconds", "From an event's commit to its delivery.", _DELIVERY_SECONDS
        )
        self._attempt_seconds = _Durations("marzhook_attempt_seconds", "How long a try took.", _SECONDS)
        registry.register(self._delivery_seconds)
        registry.register(self._attempt_seconds)
        self._pending = Gauge("marzhook_pending", "Deliveries owed.", endpoint, registry=registry)
        self._oldest_due = Gauge(
            "marzhook_oldest_due_seconds", "How long the oldest due delivery waits.", endpoint, registry=registry
        )
        self._review_lag = Gauge(
            "marzhook_review_lag_seconds", "How late the review is for its earliest due user.", registry=registry
        )
        self._workers = Gauge("marzhook_workers", "Processes that deliver, of all on this database.", registry=registry)
        self._callbacks: list[Callable[[], None]] = []
        self._rendering = threading.Lock()

    def observe(self, tries: Iterable[Try]) -> None:
        """A batch of tries was written down."""
        tries = list(tries)
        # A tally counts faster than a loop does, and of most batches all are alike.
        for (endpoint, result, outcome), count in Tally([(t[0], t[1], t[3]) for t in tries]).items():
            self._attempts.labels(endpoint, str(result)).inc(count)
            if outcome is not None:
                self._deliveries.labels(endpoint, outcome).inc(count)
        by_endpoint = sorted(tries, key=itemgetter(0))
        for endpoint, group in groupby(by_endpoint, key=itemgetter(0)):
            its = list(group)
            self._attempt_seconds.observe(endpoint, [t[2] for t in its])
            self._delivery_seconds.observe(endpoint, [t[4] for t in its if t[3] == "delivered"])

    def count_published(self, events: int = 1) -> None:
        self._published.inc(events)

    def count_review_error(self, users: int = 1) -> None:
        self._review_errors.inc(users)

    def count_pruned(self, what: str, rows: int) -> None:
        self._pruned.labels(what).inc(rows)

    def count_ingested(self, source: str, outcome: str, events: int) -> None:
        self._ingested.labels(source, outcome).inc(events)

    def count_polled(self, source: str, events: int) -> None:
        self._polled.labels(source).inc(events)

    def set_source(self, source: str, age: float, failing: bool) -> None:
        """Seconds since it was last seen whole, and whether it fails now; to be called by a callback."""
        self._source_age.labels(source).set(age)
        self._source_failing.labels(source).set(failing)

    def count_refused(self, source: str, code: str) -> None:
        self._refused.labels(source, code).inc()

    def set_queue(self, endpoint: str, pending: int, oldest_due: float) -> None:
        """What an endpoint is owed, and for how long (seconds, 0: nothing is due); to be called by a callback."""
        self._pending.labels(endpoint).set(pending)
        self._oldest_due.labels(endpoint).set(oldest_due)

    def set_review_lag(self, seconds: float) -> None:
        self._review_lag.set(seconds)

    def set_workers(self, count: int) -> None:
        self._workers.set(count)

    def before_render(self, callback: Callable[[], None]) -> None:
        """Have `callback` set the gauges that need the database, each time they are asked for."""
        self._callbacks.append(callback)

    def render(self) -> tuple[bytes, str]:
        """The body of `/metrics` and its content type."""
        with self._rendering:
            self._look()
            return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def families(self) -> list[Metric]:
        """The same, not written out."""
        with self._rendering:
            self._look()
            return list(self._registry.collect())

    def _look(self) -> None:
        # An endpoint that is gone must not keep its last depth for ever.
        self._pending.clear()
        self._oldest_due.clear()
        self._source_age.clear()
        self._source_failing.clear()
        for callback in self._callbacks:
            try:
                callback()
            except Exception as error:
                # The counters are what one needs when the database is in trouble.
                log_failure(log, "a metric could not be read", error)


def words_of(error: Exception) -> str:
    """As a reason: our own sentence; of what nobody thought of, which may have no words, its type, too."""
    return str(error) if isinstance(error, MarzhookError) else repr(error)


def log_failure(logger: logging.Logger, message: str, error: Exception) -> None:
    """A trouble that passes in one line; with its traceback what nobody thought of. That the database is away it tells itself,
    once for all who meet it (`store/presence.py`)."""
    if not isinstance(error, MarzhookError):
        logger.error(message, exc_info=error)
    elif error.code != "database_unreachable":
        logger.warning(message, extra=fields(reason=str(error)))


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """`logger.info("…", extra=fields(port=8787))`, for short."""
    return {"fields": values}
