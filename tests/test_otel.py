"""OpenTelemetry: a real service sends to a real OTLP/HTTP receiver, which decodes what comes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, Hung, plain
from marzhook import otel, settings, trace_context
from marzhook.errors import SettingError
from marzhook.testing import eventually
from receivers import Receiver, header_of
from service import Service, marzhook

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
SERVER, CLIENT, PRODUCER, ERROR = 2, 3, 4, 2
RETRIES = {"NUMBER_OF_RECURRENT_NOTIFICATIONS": "5", "RECURRENT_NOTIFICATIONS_TIMEOUT": "1"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def service(folder: Path, url: str, receiver: Receiver, **values: str) -> Service:
    """A service that tells this collector soon."""
    soon = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_BLRP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    return Service(
        folder, OTEL_EXPORTER_OTLP_ENDPOINT=url, WEBHOOK_ADDRESS=f"{receiver.url}hook/s3cret-path?token=t0ps3cret",
        **(soon | RETRIES | values),
    )  # fmt: skip


def posted(one: Service, path: str, body: Any, **headers: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{one.port}{path}", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {one.token()}", **headers},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_one_trace_from_the_call_to_each_try(tmp_path: Path, collector: Collector, receiver: Receiver) -> None:
    """The caller's trace goes on: call, publishing, a try that fails, and one that is accepted, whose ids the receiver saw."""
    receiver.do(status=500, times=1)
    with service(tmp_path, collector.url, receiver) as one:
        posted(
            one, "/api/v1/events", {"username": "ann", "action": "user_updated"}, traceparent=GIVEN,
            tracestate="vendor=1",
        )  # fmt: skip
        records = receiver.wait(2)
        failed, accepted = collector.wait(2, "deliver ")
        [call], [publishing] = collector.wait(1, "POST /api/v1/events"), collector.wait(1, "publish ")
        assert one.stop() == 0
    chain = [call, publishing, failed, accepted]
    assert {span.trace_id.hex() for span in chain} == {TRACE}
    assert {span.trace_state for span in chain} == {"vendor=1"}
    assert [span.kind for span in chain] == [SERVER, PRODUCER, CLIENT, CLIENT]
    assert call.parent_span_id.hex() == PARENT
    assert publishing.parent_span_id == call.span_id
    assert failed.parent_span_id == accepted.parent_span_id == publishing.span_id
    carried = [f"00-{TRACE}-{span.span_id.hex()}-01" for span in (failed, accepted)]
    assert [header_of(record, "traceparent") for record in records] == carried
    assert header_of(records[0], "tracestate") == "vendor=1"
    # Times: one within the other, and the receiver got its request while the try was going on.
    assert call.start_time_unix_nano <= publishing.start_time_unix_nano < publishing.end_time_unix_nano
    assert publishing.end_time_unix_nano <= call.end_time_unix_nano
    for record, span in zip(records, (failed, accepted), strict=True):
        assert span.start_time_unix_nano / 1e9 - 0.005 <= record["at"] <= span.end_time_unix_nano / 1e9 + 0.005
    assert accepted.start_time_unix_nano >= failed.end_time_unix_nano + 0.9e9
    # What is told of them.
    told = [plain(span.attributes) for span in (failed, accepted)]
    assert [one["marzhook.outcome"] for one in told] == ["failed", "delivered"]
    assert [one["http.response.status_code"] for one in told] == [500, 200]
    assert (failed.status.code, accepted.status.code, told[0]["error.type"]) == (ERROR, 0, "500")
    assert told[1]["http.request.resend_count"] == 1
    assert (told[0]["server.address"], told[0]["server.port"]) == ("127.0.0.1", receiver.port)
    assert plain(call.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 202,
        "http.route": "/api/v1/events",
    }
    assert "s3cret" not in repr([collector.spans, collector.lines, collector.metrics])


def test_figures_and_log_lines_arrive(tmp_path: Path, collector: Collector, receiver: Receiver) -> None:
    """Those of `/metrics`, with their histograms, and the log with the trace that each line belongs to."""
    named = {"OTEL_SERVICE_NAME": "shop-hooks", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc"}
    with service(tmp_path, collector.url, receiver, **named) as one:
        posted(one, "/api/user", {"username": "ann_1", "proxies": {}})
        [accepted] = collector.wait(1, "deliver ")
        eventually(lambda: any(line.body.string_value == "delivery" for line in [*collector.lines]), timeout=30)
        eventually(lambda: "marzhook_delivery_seconds" in collector.metrics, timeout=30)
        assert one.stop() == 0
    [line] = [line for line in collector.lines if line.body.string_value == "delivery"]
    assert (line.trace_id, line.span_id) == (accepted.trace_id, accepted.span_id)
    assert (line.severity_text, plain(line.attributes)["username"]) == ("INFO", "ann_1")
    texts = {line.body.string_value for line in collector.lines}
    assert {"started", "stopped"} <= texts
    assert (collector.resource["service.name"], collector.headers["authorization"]) == ("shop-hooks", "Bearer abc")
    deliveries = collector.metrics["marzhook_deliveries"].sum
    [point] = deliveries.data_points
    assert (deliveries.is_monotonic, point.as_double) == (True, 1.0)
    assert plain(point.attributes)["outcome"] == "delivered"
    [seconds] = collector.metrics["marzhook_delivery_seconds"].histogram.data_points
    assert (seconds.count, sum(seconds.bucket_counts)) == (1, 1)
    assert len(seconds.bucket_counts) == len(seconds.explicit_bounds) + 1
    assert collector.metrics["marzhook_pending"].gauge.data_points[0].as_double == 0


def test_a_request_with_several_events_links_to_the_one_whose_trace_it_carries(
    tmp_path: Path, collector: Collector, receiver: Receiver
) -> None:
    """Each event's try is in its own trace; those that came along point to the first."""
    late = {"WEBHOOK_FORMAT": "list", "JOB_SEND_NOTIFICATIONS_INTERVAL": "2"}
    with service(tmp_path, collector.url, receiver, **late) as one:
        events = [{"username": f"user{n}", "action": "user_updated"} for n in range(3)]
        # In one call, the last with its own trace: all three are owed before the next look.
        posted(one, "/api/v1/events", events[:2])
        posted(one, "/api/v1/events", events[2], traceparent=GIVEN)
        records = receiver.wait(1)
        while sum(len(json.loads(record["body"])) for record in records) < 3:
            records = receiver.wait(len(records) + 1)
        tries = collector.wait(3, "deliver ")
    by_user = {plain(span.attributes)["marzhook.username"]: span for span in tries}
    assert by_user["user2"].trace_id.hex() == TRACE
    assert by_user["user0"].trace_id == by_user["user1"].trace_id != by_user["user2"].trace_id
    for record in records:
        names = [event["username"] for event in json.loads(record["body"])]
        first, *others = [by_user[name] for name in names]
        assert str(header_of(record, "traceparent")).startswith(f"00-{first.trace_id.hex()}-{first.span_id.hex()}-")
        assert not first.links
        assert all(
            [(link.trace_id, link.span_id) for link in span.links] == [(first.trace_id, first.span_id)]
            for span in others
        )


def test_the_sampler_decides_and_the_receiver_is_told(tmp_path: Path, collector: Collector, receiver: Receiver) -> None:
    """What is not recorded here bears the flag for it; what a caller records goes on being recorded."""
    with service(tmp_path, collector.url, receiver, OTEL_TRACES_SAMPLER="parentbased_always_off") as one:
        posted(one, "/api/v1/events", {"username": "ann", "action": "user_updated"})
        [silent] = receiver.wait(1)
        posted(one, "/api/v1/events", {"username": "bob", "action": "user_updated"}, traceparent=GIVEN)
        collector.wait(1, "deliver ")
        assert one.stop() == 0
    assert not trace_context.sampled(str(header_of(silent, "traceparent")))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


@pytest.mark.parametrize("how", ["absent", "hung"])
def test_a_collector_in_trouble_holds_nobody_up(tmp_path: Path, receiver: Receiver, how: str) -> None:
    """Deliveries arrive as ever, the log complains seldom, and the stop does not wait for long."""
    with Hung() as hung, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = hung.url if how == "hung" else f"http://127.0.0.1:{closed.getsockname()[1]}"
        small = {"MAX_QUEUE_SIZE": "300", "MAX_EXPORT_BATCH_SIZE": "100"}
        values = {f"OTEL_{of}_{name}": value for of in ("BSP", "BLRP") for name, value in small.items()}
        with service(tmp_path, url, receiver, **values) as one:
            for _ in range(5):
                events = [{"username": f"user{n}", "action": "user_updated"} for n in range(200)]
                posted(one, "/api/v1/events", events)
            receiver.wait(1000, timeout=60)
            began = time.monotonic()
            assert one.stop() == 0
            assert time.monotonic() - began < 10
        complaints = [line for line in one.log if "OpenTelemetry" in line]
        assert len(complaints) <= 8
        if how == "absent":
            assert complaints
    receiver.forget()


def test_nothing_is_imported_while_it_is_off(tmp_path: Path) -> None:
    """Neither the library's working part nor ours, by a whole service with its API."""
    code = (
        "import sys\n"
        "from marzhook import settings\n"
        "from marzhook.api.app import create_app\n"
        "from marzhook.dashboard.site import install\n"
        "from marzhook.runtime import Runtime\n"
        "runtime = Runtime(settings.load({}))\n"
        "install(create_app(runtime.services), runtime.services)\n"
        "runtime.start()\n"
        "runtime.stop()\n"
        "names = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto', 'google.protobuf', 'requests',\n"
        "    'marzhook.otel.')\n"
        "print([name for name in sys.modules if name.startswith(names)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_missing_extra_is_told_in_one_line(tmp_path: Path) -> None:
    """With what to type, at the start."""
    block = "import sys; sys.modules['opentelemetry.exporter'] = None; from marzhook.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", block, "run"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "UVICORN_PORT": "0"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "marzhook: OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed (opentelemetry.exporter.otlp);"
        " type: pip install 'marzhook[otel]', or take the setting away"
    ]


def test_the_variables_are_taken_from_the_env_file_too(tmp_path: Path) -> None:
    """They are shown with their source, headers and passwords masked; a mistyped one is told."""
    (tmp_path / ".env").write_text(
        "OTEL_EXPORTER_OTLP_ENDPOINT = https://me:t0ps3cret@otlp.example/\n"
        'OTEL_EXPORTER_OTLP_HEADERS = "authorization=t0ps3cret"\n'
    )
    shown = marzhook(tmp_path, "config")
    assert shown.returncode == 0, shown.stderr
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in shown.stdout
    assert ".env line 2" in shown.stdout
    assert "t0ps3cret" not in shown.stdout
    (tmp_path / ".env").write_text("OTEL_EXPORTER_OTLP_ENDPOIN = http://127.0.0.1:4318\n")
    wrong = marzhook(tmp_path, "config")
    assert (wrong.returncode, "did you mean OTEL_EXPORTER_OTLP_ENDPOINT?" in wrong.stderr) == (2, True)


URL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("values", "signals"),
    [
        ({}, set()),
        (URL, {"TRACES", "METRICS", "LOGS"}),
        (URL | {"OTEL_SDK_DISABLED": "true"}, set()),
        (URL | {"OTEL_LOGS_EXPORTER": "none"}, {"TRACES", "METRICS"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, {"TRACES"}),
        ({"OTEL_SERVICE_NAME": "shop", "OTEL_TRACES_EXPORTER": "console"}, set()),
    ],
)
def test_what_is_wanted(values: dict[str, str], signals: set[str]) -> None:
    """An endpoint switches a signal on; the standard variables switch it off."""
    assert otel.wanted(settings.load(values, None).otel) == signals


@pytest.mark.parametrize(
    "values",
    [
        URL | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        URL | {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"},
    ],
)
def test_what_cannot_be_done_is_told(values: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="OTEL_"):
        otel.wanted(values)
