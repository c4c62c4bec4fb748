"""What is sent to a collector, put together: one channel a signal, with OpenTelemetry's own exporters at their ends."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from prometheus_client import Metric as Family

from marzhook import __version__
from marzhook.errors import SettingError
from marzhook.otel.channel import Channel, Seldom
from marzhook.otel.figures import Figures
from marzhook.otel.lines import Lines
from marzhook.otel.spans import Spans

log = logging.getLogger(__name__)

FLUSH: Final = 2.0
"""Seconds that a stop waits for the collector to take the last spans and lines, and at most as long for the figures."""
_LIBRARY: Final = "opentelemetry"


class Sending:
    """`spans` for those who trace (None: traces are not wanted), `measure`, and at the end `stop`."""

    def __init__(self, values: Mapping[str, str], signals: frozenset[str]) -> None:
        self._values, self._signals = values, signals
        self._complaints = Seldom(log)
        library = logging.getLogger(_LIBRARY)
        library.handlers, library.propagate = [self._complaints], False
        # What the environment says of the resource wins.
        self._resource = Resource.create(
            {
                "service.name": "marzhook",
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        ).merge(OTELResourceDetector().detect())
        self._exporters: list[Any] = []
        self._channels: list[Channel] = []
        self._figures: Figures | None = None
        self._lines: Lines | None = None
        self.spans: Spans | None = None
        if "TRACES" in signals:
            self.spans = Spans(self._channel("spans", OTLPSpanExporter(), "BSP", 5000), self._resource)
        if "LOGS" in signals:
            self._lines = Lines(self._channel("log lines", OTLPLogExporter(), "BLRP", 1000), self._resource)
            logging.getLogger().addHandler(self._lines)

    def measure(self, families: Callable[[], Iterable[Family]]) -> None:
        """From now on send these figures, where that is wanted."""
        if "METRICS" in self._signals:
            exporter = OTLPMetricExporter()
            self._exporters.append(exporter)
            interval = self._number("OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000
            self._figures = Figures(
                families, exporter.export, self._resource, interval=interval, complaints=self._complaints
            )
            self._figures.start()

    def stop_measuring(self) -> None:
        """Send the figures a last time, while they can still be read."""
        if self._figures is not None:
            self._figures.stop(FLUSH)

    def stop(self) -> None:
        """Send what waits, as far as the collector takes it within FLUSH seconds."""
        if self._lines is not None:
            logging.getLogger().removeHandler(self._lines)
        until = time.monotonic() + FLUSH
        for channel in self._channels:
            channel.stop(0.0)
        for channel in self._channels:
            channel.stop(max(0.0, until - time.monotonic()))
        # Nobody waits for who still tries: these threads end with the process.
        for exporter in self._exporters:
            exporter.shutdown()

    def _channel(self, name: str, exporter: Any, prefix: str, delay: int) -> Channel:
        self._exporters.append(exporter)
        channel = Channel(
            name,
            exporter.export,
            delay=self._number(f"OTEL_{prefix}_SCHEDULE_DELAY", delay) / 1000,
            most=self._number(f"OTEL_{prefix}_MAX_QUEUE_SIZE", 2048),
            at_once=self._number(f"OTEL_{prefix}_MAX_EXPORT_BATCH_SIZE", 512),
        )
        self._channels.append(channel)
        channel.start()
        return channel

    def _number(self, name: str, default: int) -> int:
        text = self._values.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 86_400_000):
            raise SettingError(f"{name} is {text[:40]!r}; expected a whole number above 0")
        return int(text)
