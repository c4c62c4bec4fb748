"""A collector for tests: takes OTLP over HTTP on loopback, and decodes what comes with OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from marzhook.testing import eventually

WHOLE = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Collector:
    """`spans`, `metrics` and `lines` are what came so far; `headers` those of the last request."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.lines: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resource: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                collector.take(WHOLE[self.path].FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, message: Any) -> None:
        for whole in getattr(message, message.DESCRIPTOR.fields[0].name):
            self.resource = plain(whole.resource.attributes)
            match message:
                case ExportTraceServiceRequest():
                    self.spans += [span for scope in whole.scope_spans for span in scope.spans]
                case ExportLogsServiceRequest():
                    self.lines += [line for scope in whole.scope_logs for line in scope.log_records]
                case _:
                    self.metrics |= {m.name: m for scope in whole.scope_metrics for m in scope.metrics}

    def wait(self, count: int, name: str = "") -> list[Any]:
        """Until so many spans whose name begins so have come; in the order of their beginning."""

        def found() -> list[Any]:
            return sorted((s for s in [*self.spans] if s.name.startswith(name)), key=lambda s: s.start_time_unix_nano)

        eventually(lambda: len(found()) >= count, timeout=30)
        return found()

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class Hung:
    """Takes connections, and never says a word."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Hung:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def plain(attributes: list[KeyValue]) -> dict[str, Any]:
    """Attributes as a dictionary."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}
