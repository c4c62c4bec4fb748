"""Certificates: whom the transport trusts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from marzhook.clock import SystemClock
from marzhook.request import Request, Response
from marzhook.transport.http import HttpTransport
from tls_server import certificate, server_context, tls_receiver


def ask(transport: HttpTransport, url: str) -> Response:
    transport.send(Request(url, (), b"{}", 5.0, 5.0, guarded=False), "token")
    while True:
        for _, response in transport.poll(5):
            return response


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A TLS server on 127.0.0.1 and the certificate that it shows."""
    shown, key = certificate(tmp_path_factory.mktemp("tls"))
    with tls_receiver(server_context(shown, key)) as port:
        yield port, shown


def test_certificates_are_verified(tls: tuple[int, Path]) -> None:
    """A self-signed certificate is `tls`, unless the operator trusts it; so is a wrong name, or a file that is not there."""
    port, shown = tls
    default, trusting = HttpTransport(SystemClock()), HttpTransport(SystemClock(), ca_file=str(shown))
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
