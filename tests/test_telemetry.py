"""Log lines and metrics."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from marzhook.telemetry import Metrics, Try, configure_logging, fields, log_deliveries

logger = logging.getLogger("marzhook.test")


class Stream(io.StringIO):
    """Counts writes, and may be a terminal."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal
        self.writes = 0

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def documents(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Logging is the process's: give pytest its handlers back."""
    root, ours = logging.getLogger(), logging.getLogger("marzhook")
    handlers, level, own = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(own)


def test_json_line() -> None:
    """Elsewhere than on a terminal a line is JSON: time in UTC, level, logger, message, then the fields."""
    stream = Stream()
    configure_logging("auto", "info", stream)
    logger.info("listening on %s", "::", extra={"fields": {"port": 8787, "path": Ellipsis, "message": "kept"}})
    (line,) = stream.documents()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("ts")))
    assert line == {
        "level": "info", "logger": "marzhook.test", "message": "listening on ::",
        "port": 8787, "path": "Ellipsis", "message_": "kept",
    }  # fmt: skip


def test_text_line() -> None:
    """On a terminal a line is for people, and what comes from outside cannot break it or forge a field."""
    stream = Stream(terminal=True)
    configure_logging("auto", "info", stream)
    logger.warning("bad\nrow", extra=fields(user="علی", text="a b=c", escape="\x1b[2J\n", empty=""))
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING bad\\nrow  ", line)
    assert line.rstrip().endswith('user=علی text="a b=c" escape="\\u001b[2J\\n" empty=""')


@pytest.mark.parametrize(("chosen", "terminal", "is_json"), [("text", False, False), ("json", True, True)])
def test_format_can_be_chosen(chosen: str, terminal: bool, is_json: bool) -> None:
    """text and json override what the stream is."""
    stream = Stream(terminal)
    configure_logging(chosen, "info", stream)
    logger.info("x")
    assert stream.getvalue().startswith("{") is is_json


@pytest.mark.parametrize("chosen", ["text", "json"])
def test_exception(chosen: str) -> None:
    """An exception is one string field in JSON, and follows the line in text."""
    stream = Stream()
    configure_logging(chosen, "info", stream)
    try:
        raise ValueError("no such thing")
    except ValueError:
        logger.exception("failed")
    if chosen == "json":
        (line,) = stream.documents()
        assert "Traceback" in str(line["exception"])
        assert str(line["exception"]).endswith("ValueError: no such thing")
    else:
        assert "failed\nTraceback" in stream.getvalue()


def test_levels() -> None:
    """The level is for Marzhook's loggers; libraries are heard from warning on. Configuring again replaces."""
    configure_logging("json", "debug", Stream())
    stream = Stream()
    configure_logging("json", "debug", stream)
    logger.debug("ours")
    logging.getLogger("alembic").info("theirs")
    logging.getLogger("alembic").warning("their trouble")
    assert [line["message"] for line in stream.documents()] == ["ours", "their trouble"]
    with pytest.raises(ValueError, match="auto, text, json"):
        configure_logging("xml", "info", stream)


ROWS = [
    {"outcome": "delivered", "endpoint": "1:a", "event": 1},
    {"outcome": "dead", "endpoint": "1:a", "event": 2},
]


@pytest.mark.parametrize("chosen", ["text", "json"])
def test_deliveries_in_one_write(chosen: str) -> None:
    """A batch of deliveries is a line each, in one write; a dead letter is a warning."""
    stream = Stream()
    configure_logging(chosen, "info", stream)
    log_deliveries(logger, ROWS)
    assert stream.writes == 1
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    if chosen == "json":
        first, second = stream.documents()
        assert (first["level"], second["level"]) == ("info", "warning")
        assert (first["message"], first["endpoint"], first["event"]) == ("delivery", "1:a", 1)
    else:
        assert lines[0].endswith(" INFO    delivery  outcome=delivered endpoint=1:a event=1")
        assert lines[1].endswith(" WARNING delivery  outcome=dead endpoint=1:a event=2")


def test_deliveries_by_level() -> None:
    """At warning only the dead letters are told, at error nothing, and an empty batch is nothing."""
    stream = Stream()
    configure_logging("json", "warning", stream)
    log_deliveries(logger, ROWS)
    assert [line["event"] for line in stream.documents()] == [2]
    stream = Stream()
    configure_logging("json", "error", stream)
    log_deliveries(logger, ROWS)
    configure_logging("json", "info", stream)
    log_deliveries(logger, [])
    assert stream.writes == 0


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(body.decode())
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_metrics_count() -> None:
    """Deliveries, tries, publishes and review errors are counted; latency is observed where one was delivered."""
    metrics = Metrics()
    metrics.observe([Try("1:a", "200", 0.01, "delivered", 0.02), Try("1:a", "200", 4.0, "delivered", 4.0)])
    metrics.observe([Try("1:a", "500", 60.0, "dead", 9.0), Try("1:a", "timeout", 0.001)])
    metrics.count_published(500)
    metrics.count_review_error()
    metrics.set_review_lag(1.5)
    found = samples(metrics)
    assert found["marzhook_deliveries_total", ("1:a", "delivered")] == 2
    assert found["marzhook_deliveries_total", ("1:a", "dead")] == 1
    assert found["marzhook_delivery_seconds_count", ("1:a",)] == 2
    assert found["marzhook_delivery_seconds_sum", ("1:a",)] == pytest.approx(4.02)
    assert found["marzhook_attempts_total", ("1:a", "200")] == 2
    assert found["marzhook_attempts_total", ("1:a", "timeout")] == 1
    assert found["marzhook_attempt_seconds_count", ("1:a",)] == 4
    buckets = {
        bound: found["marzhook_attempt_seconds_bucket", ("1:a", bound)]
        for bound in ("0.001", "0.01", "5.0", "30.0", "+Inf")
    }
    assert buckets == {"0.001": 1, "0.01": 2, "5.0": 3, "30.0": 3, "+Inf": 4}
    assert found["marzhook_events_published_total", ()] == 500
    assert found["marzhook_review_errors_total", ()] == 1
    assert found["marzhook_review_lag_seconds", ()] == 1.5
    assert all(name.startswith("marzhook_") for name, _ in found)


def test_metrics_are_separate() -> None:
    """Two instances in one process do not share anything."""
    one, other = Metrics(), Metrics()
    one.count_published()
    assert samples(other)["marzhook_events_published_total", ()] == 0


def test_gauges_are_read_when_asked() -> None:
    """Callbacks set the queue's gauges at each rendering, and an endpoint that is gone is gone."""
    metrics = Metrics()
    depth = {"1:a": 3, "2:b": 0}
    metrics.before_render(lambda: [metrics.set_queue(name, n, n * 2.0) for name, n in depth.items()] and None)
    found = samples(metrics)
    assert (found["marzhook_pending", ("1:a",)], found["marzhook_oldest_due_seconds", ("1:a",)]) == (3, 6)
    del depth["1:a"]
    found = samples(metrics)
    assert ("marzhook_pending", ("1:a",)) not in found
    assert ("marzhook_pending", ("2:b",)) in found


def test_metrics_survive_a_failing_callback(caplog: pytest.LogCaptureFixture) -> None:
    """When the database cannot be read the counters are still served, and the failure is logged."""
    metrics = Metrics()
    metrics.count_published()

    def locked() -> None:
        raise OSError("locked")

    metrics.before_render(locked)
    assert samples(metrics)["marzhook_events_published_total", ()] == 1
    assert "a metric could not be read" in caplog.text
