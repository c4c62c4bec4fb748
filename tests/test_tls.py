"""Certificates: whom the transport trusts."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from marzhook.clock import SystemClock
from marzhook.request import Request, Response
from marzhook.transport.http import HttpTransport


def ask(transport: HttpTransport, url: str) -> Response:
    transport.send(Request(url, (), b"{}", 5.0, 5.0, guarded=False), "token")
    while True:
        for _, response in transport.poll(5):
            return response


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class _Tolerant(HTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that do not trust us hang up: that is the test."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A TLS server on 127.0.0.1 and the certificate that it shows."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key),
         "-out", str(certificate), "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = _Tolerant(("127.0.0.1", 0), _Answer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, certificate
    server.shutdown()
    thread.join()
    server.server_close()


def test_certificates_are_verified(tls: tuple[int, Path]) -> None:
    """A self-signed certificate is `tls`, unless the operator trusts it; so is a wrong name, or a file that is not there."""
    port, certificate = tls
    default, trusting = HttpTransport(SystemClock()), HttpTransport(SystemClock(), ca_file=str(certificate))
    missing = HttpTransport(SystemClock(), ca_file="/no/such/file.pem")
    try:
        refused = ask(default, f"https://127.0.0.1:{port}/")
        assert (refused.status, refused.error) == (None, "tls")
        assert "certificate" in refused.message
        assert ask(trusting, f"https://127.0.0.1:{port}/").status == 200
        assert ask(trusting, f"https://localhost:{port}/").error == "tls"
        assert ask(missing, f"https://127.0.0.1:{port}/").error == "tls"
    finally:
        for one in (default, trusting, missing):
            one.close()
