"""The figures of `/metrics`, also over OTLP: read from the same registry, so that nothing is counted twice.

OpenTelemetry has no instrument for a histogram that somebody else keeps, so what is sent is put together here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from marzhook import __version__
from marzhook.background import Background
from marzhook.otel.channel import Seldom

SUMS, FOR_GOOD = AggregationTemporality.CUMULATIVE, True


class Figures(Background):
    """Reads and sends them every `interval` seconds, and once more at the end."""

    def __init__(
        self,
        families: Callable[[], Iterable[Family]],
        export: Callable[[MetricsData], object],
        resource: Resource,
        *,
        interval: float,
        complaints: Seldom,
    ) -> None:
        super().__init__("otel metrics")
        self._families, self._export, self._resource = families, export, resource
        self._interval, self._complaints = interval, complaints
        self._began = time.time_ns()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._send()
        self._send()

    def _send(self) -> None:
        try:
            found = list(converted(self._families(), self._began, time.time_ns()))
            scope = ScopeMetrics(InstrumentationScope("marzhook", __version__), found, "")
            self._export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        except Exception as error:
            self._complaints.tell(f"metrics could not be sent to the collector: {type(error).__name__}: {error}")


def converted(families: Iterable[Family], began: int, now: int) -> Iterator[Metric]:
    """Times in nanoseconds: since when counters count, and as of when they are read."""
    for family in families:
        unit = "s" if family.name.endswith("_seconds") else ""
        data: Sum | Gauge | Histogram
        if family.type == "histogram":
            data = Histogram(list(_histograms(family.samples, began, now)), SUMS)
        elif family.type == "counter":
            # Beside the count Prometheus has the time at which it began.
            counts = [sample for sample in family.samples if sample.name.endswith("_total")]
            data = Sum([_number(sample, began, now) for sample in counts], SUMS, FOR_GOOD)
        else:
            data = Gauge([_number(sample, now, now) for sample in family.samples])
        if data.data_points:
            yield Metric(family.name, family.documentation, unit, data)


def _number(sample: Sample, began: int, now: int) -> NumberDataPoint:
    return NumberDataPoint(dict(sample.labels), began, now, float(sample.value))


def _histograms(samples: Sequence[Sample], began: int, now: int) -> Iterator[HistogramDataPoint]:
    buckets: dict[str, list[tuple[float, float]]] = {}
    sums: dict[str, float] = {}
    for sample in samples:
        endpoint = sample.labels["endpoint"]
        if sample.name.endswith("_bucket"):
            buckets.setdefault(endpoint, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[endpoint] = sample.value
    for endpoint, its in buckets.items():
        below = [int(count) for _, count in its]
        counts = [count - before for count, before in zip(below, [0, *below], strict=False)]
        bounds = [bound for bound, _ in its[:-1]]
        yield HistogramDataPoint(
            {"endpoint": endpoint}, began, now, below[-1], sums[endpoint], counts, bounds,
            None, None,  # type: ignore[arg-type] # nobody has noted the least and the greatest; the field is optional
        )  # fmt: skip
