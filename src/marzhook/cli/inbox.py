"""A small receiver for `listen` and `demo`: takes webhooks, verifies them, and says what is in them.

Standard library only, one thread a connection. It is for trying things out by hand, not for a server of yours.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from marzhook.cli.relay import Incoming, Step
from marzhook.errors import StartError
from marzhook.receiver import EventRefused, Memory, ReceivedEvent, RequestRefused, Secrets
from marzhook.receiver.body import read
from marzhook.receiver.event import event_of

MAX_BODY = 32 * 1024 * 1024

VALID: Final = "valid"
WRONG: Final = "wrong"
MISSING: Final = "missing"
STALE: Final = "stale"


@dataclass(frozen=True, slots=True)
class Received:
    """One request and what it was answered."""

    at: float
    """Unix seconds."""
    path: str
    status: int
    kind: str
    """event, list, standard, discord, json (of another shape), or text."""
    events: tuple[ReceivedEvent, ...]
    body: bytes
    message_id: str | None
    again: bool
    """An accepted message that had been accepted before."""
    secret: str | None
    """plain, hmac, wrong or missing; None: nobody asked."""
    signature: str | None
    """valid, wrong, stale or missing; None: nobody asked."""
    notes: tuple[str, ...] = ()
    """What those to whom it was passed on said."""


class Checks:
    """What a request must bring to be accepted: both, where both are given."""

    def __init__(self, secret: str | None = None, signing_secret: str | None = None) -> None:
        self._secret = Secrets(secret) if secret else None
        self._signing = Secrets(signing_secret) if signing_secret else None

    def secret_of(self, headers: Mapping[str, str], body: bytes, *, now: float) -> str | None:
        """How the request proved that it knows the secret."""
        return _verdict(self._secret, headers, body, now) if self._secret else None

    def signature_of(self, headers: Mapping[str, str], body: bytes, *, now: float) -> str | None:
        """Whether the Standard Webhooks signature is right and fresh."""
        verdict = _verdict(self._signing, headers, body, now) if self._signing else None
        return VALID if verdict in ("v1", "v1a") else verdict


def _verdict(secrets: Secrets, headers: Mapping[str, str], body: bytes, now: float) -> str:
    try:
        return secrets.verify(headers, body, now)
    except RequestRefused as refused:
        return {"no_proof": MISSING, "stale": STALE}.get(refused.code, WRONG)


class Inbox(ThreadingHTTPServer):
    """Listens from the moment it is made; `port` is the real one where 0 was asked for.

    `plan` gives the status of an accepted request (default 200); `on_received` is told of each request after it was
    answered, on the connection's thread. Raises StartError when it cannot listen there.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(
        self,
        host: str,
        port: int,
        on_received: Callable[[Received], None],
        *,
        checks: Checks | None = None,
        plan: Callable[[], int] = lambda: 200,
        delay: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_received = on_received
        self.checks = checks or Checks()
        self.plan = plan
        self.delay = delay
        self.clock = clock
        self.stopping = threading.Event()
        self.steps: list[Step] = []
        """What is done with a request that may be accepted, in turn; the first that fails says how it is answered."""
        self.on_tick: Callable[[], None] | None = None
        """Called every now and then on the thread of `serve_forever`."""
        self._accepted = Memory()
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise StartError(_why_not(error, host, port), code="cannot_listen") from None

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def take(self, path: str, headers: Mapping[str, str], body: bytes, now: float) -> int:
        """Verify a request, do with it what there is to do, and tell of it; return the status to answer. Names of headers are
        in lower case."""
        secret = self.checks.secret_of(headers, body, now=now)
        signature = self.checks.signature_of(headers, body, now=now)
        status = 403 if {secret, signature} & {WRONG, MISSING, STALE} else self.plan()
        kind, events = understand(body)
        notes: list[str] = []
        if status < 300 and self.steps:
            incoming = Incoming(now, path, headers, body, _written(body) if events else ())
            for step in self.steps:
                found, words = step(incoming)
                notes += [words] if words else []
                if not 200 <= found < 300:
                    status = found
                    break
        if self.delay:
            self.stopping.wait(self.delay)
        message_id = headers.get("webhook-id")
        again = status < 300 and self.accept(message_id)
        # Shown before it is answered: so whoever sends one after the other finds them shown in that order.
        self.on_received(
            Received(now, path, status, kind, events, body, message_id, again, secret, signature, tuple(notes))
        )
        return status

    def accept(self, message_id: str | None) -> bool:
        """Note an accepted message; return whether it had come before."""
        with self._accepted.once([message_id] if message_id else []) as first:
            return not first

    def service_actions(self) -> None:
        if self.on_tick is not None:
            self.on_tick()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that hangs up is no news here; the base class would print a traceback."""

    def server_bind(self) -> None:
        # Not HTTPServer's: that looks the host's name up, which can take seconds where DNS is slow.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def stop(self) -> None:
        """Stop listening; a delayed answer goes out at once. Call it from another thread than `serve_forever`'s."""
        self.stopping.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Inbox
    protocol_version = "HTTP/1.1"
    server_version = "marzhook-listen"
    sys_version = ""
    # Head and body of an answer leave in one packet.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.server.take(self.path, headers, body, self.server.clock())
        self._answer(status)

    do_PUT = do_POST

    def do_GET(self) -> None:
        self._answer(200, b"marzhook listen: POST webhooks here\n")

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            self._answer(411, b"Content-Length is missing\n")
            return None
        if int(length) > MAX_BODY:
            self.close_connection = True
            self._answer(413, b"too large\n")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return None
        return body

    def _answer(self, status: int, text: bytes = b"") -> None:
        self.send_response(status)
        if status not in (204, 304):
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(text)
        # A sender that has hung up meanwhile is its own concern; the request is still reported.
        try:
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """What comes in is shown by `on_received`."""


def understand(body: bytes) -> tuple[str, tuple[ReceivedEvent, ...]]:
    """The body's kind and its events: the panel's object or list, Standard Webhooks, a Discord message."""
    try:
        content = read(None, body, "plain")
        events = tuple(
            event_of(item, format=content.format, id=None, message_id=None, connection=None)
            for item, _ in content.items
        )
        if events:
            return content.format, events
    except (RequestRefused, EventRefused):
        pass
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "text", ()
    return "discord" if isinstance(value, dict) and isinstance(value.get("embeds"), list) else "json", ()


def _written(body: bytes) -> tuple[Mapping[str, Any], ...]:
    """The events of a body that has some, as they came."""
    return tuple(item for item, _ in read(None, body, "plain").items)


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop that program, or choose another port (--port 0 picks a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} may be used by root only; choose one from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host}; use 127.0.0.1 (this machine only) or 0.0.0.0 (every network)"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"
