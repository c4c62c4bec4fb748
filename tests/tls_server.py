"""Certificates that sign themselves, and a receiver that shows one."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def certificate(folder: Path, name: str = "IP:127.0.0.1", *, days: int = 2) -> tuple[Path, Path]:
    """Make one for `name` (as OpenSSL's subjectAltName); returns the files of the certificate and of its key."""
    folder.mkdir(exist_ok=True)
    shown, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
         "-out", shown, "-days", str(days), "-subj", "/CN=test", "-addext", f"subjectAltName={name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return shown, key


def server_context(shown: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, key)
    return context


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


@contextmanager
def tls_receiver(context: ssl.SSLContext) -> Iterator[int]:
    """A receiver over TLS on 127.0.0.1 that accepts everything; yields its port."""
    server = _Tolerant(("127.0.0.1", 0), _Answer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
