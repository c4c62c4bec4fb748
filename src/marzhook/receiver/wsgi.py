"""WSGI (PEP 3333): `application(receiver)` is a whole application, for gunicorn, uWSGI, mod_wsgi or to be mounted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from marzhook.receiver.receiver import Receiver

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def application(receiver: Receiver) -> Application:
    """An application that takes webhooks at every path it is asked for."""

    def marzhook_webhook(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
        }
        answer = receiver.receive(headers, _body(environ, receiver.max_body + 1), method=environ["REQUEST_METHOD"])
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        start_response(status, [*answer.headers.items(), ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    return marzhook_webhook


def _body(environ: dict[str, Any], limit: int) -> bytes:
    """Without a length, only a server that says that its input ends can be read to the end."""
    length = environ.get("CONTENT_LENGTH", "")
    if length.isascii() and length.isdigit() and len(length) < 16:
        limit = min(int(length), limit)
    elif not environ.get("wsgi.input_terminated"):
        return b""
    found = bytearray()
    while len(found) < limit and (chunk := environ["wsgi.input"].read(limit - len(found))):
        found += chunk
    return bytes(found)
