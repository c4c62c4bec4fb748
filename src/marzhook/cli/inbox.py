"""A small receiver for `listen` and `demo`: takes webhooks, verifies them, and says what is in them.

Standard library only, one thread a connection. It is for trying things out by hand, not for a server of yours.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from marzhook import signing
from marzhook.errors import StartError

MAX_BODY = 32 * 1024 * 1024
TOLERANCE = 300
"""Seconds that a signature's timestamp may be off (Standard Webhooks, "Verifying webhook authenticity")."""
REMEMBERED = 100_000
"""Message ids kept to notice one that comes again."""

PLAIN: Final = "plain"
HMAC: Final = "hmac"
VALID: Final = "valid"
WRONG: Final = "wrong"
MISSING: Final = "missing"
STALE: Final = "stale"


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as it came in; what is None was not in it."""

    action: str
    username: str
    tries: int | None = None
    enqueued_at: float | None = None
    by: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """One request and what it was answered."""

    at: float
    """Unix seconds."""
    path: str
    status: int
    kind: str
    """event, list, standard, discord, json (of another shape), or text."""
    events: tuple[Seen, ...]
    body: bytes
    message_id: str | None
    again: bool
    """An accepted message that had been accepted before."""
    secret: str | None
    """plain, hmac, wrong or missing; None: nobody asked."""
    signature: str | None
    """valid, wrong, stale or missing; None: nobody asked."""


@dataclass(frozen=True, slots=True)
class Checks:
    """What a request must bring to be accepted."""

    secret: str | None = field(default=None, repr=False)
    signing_key: bytes | None = field(default=None, repr=False)

    def secret_of(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """How the request proved that it knows the secret, compared in constant time."""
        if self.secret is None:
            return None
        sent = headers.get("x-webhook-secret", "")
        if not sent:
            return MISSING
        # http.server reads headers as Latin-1; senders write a secret beyond ASCII in that or in UTF-8.
        utf8 = sent.encode("latin-1", "replace").decode("utf-8", "replace")
        plain = signing.same(sent, self.secret) | signing.same(utf8, self.secret)
        hashed = signing.same(sent.lower(), signing.hex_hmac(self.secret, body))
        return PLAIN if plain else HMAC if hashed else WRONG

    def signature_of(self, headers: Mapping[str, str], body: bytes, *, now: float) -> str | None:
        """Whether the Standard Webhooks signature is right and fresh."""
        if self.signing_key is None:
            return None
        message_id, timestamp = headers.get("webhook-id"), headers.get("webhook-timestamp")
        signature = headers.get("webhook-signature")
        if not message_id or not timestamp or not signature:
            return MISSING
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
            return WRONG
        if not signing.verify_v1(self.signing_key, message_id, int(timestamp), body, signature):
            return WRONG
        return STALE if abs(now - int(timestamp)) > TOLERANCE else VALID


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
        self.on_tick: Callable[[], None] | None = None
        """Called every now and then on the thread of `serve_forever`."""
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
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

    def accept(self, message_id: str | None) -> bool:
        """Note an accepted message; return whether it had come before."""
        if message_id is None:
            return False
        with self._lock:
            again = message_id in self._accepted
            self._accepted[message_id] = None
            if len(self._accepted) > REMEMBERED:
                self._accepted.popitem(last=False)
        return again

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
        inbox, headers = self.server, {name.lower(): value for name, value in self.headers.items()}
        now = inbox.clock()
        secret = inbox.checks.secret_of(headers, body)
        signature = inbox.checks.signature_of(headers, body, now=now)
        if secret in (WRONG, MISSING):
            status = 403
        elif signature in (WRONG, MISSING, STALE):
            status = 400
        else:
            status = inbox.plan()
        if inbox.delay:
            inbox.stopping.wait(inbox.delay)
        message_id = headers.get("webhook-id")
        again = status < 300 and inbox.accept(message_id)
        kind, events = understand(body)
        # Shown before it is answered: so whoever sends one after the other finds them shown in that order.
        inbox.on_received(
            Received(now, self.path, status, kind, events, body, message_id, again, secret, signature)
        )  # fmt: skip
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


def understand(body: bytes) -> tuple[str, tuple[Seen, ...]]:
    """The body's kind and its events: the panel's object or list, Standard Webhooks, a Discord message."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "text", ()
    if isinstance(value, list):
        events = [_event(one) for one in value]
        if events and all(events):
            return "list", tuple(event for event in events if event)
        return "json", ()
    if not isinstance(value, dict):
        return "json", ()
    if isinstance(value.get("embeds"), list):
        return "discord", ()
    if isinstance(value.get("type"), str) and isinstance(value.get("data"), dict):
        data = {"action": value["type"], "enqueued_at": _unix(value.get("timestamp")), **value["data"]}
        event = _event(data)
        return ("standard", (event,)) if event else ("json", ())
    event = _event(value)
    return ("event", (event,)) if event else ("json", ())


def _event(value: Any) -> Seen | None:
    if not isinstance(value, dict) or not isinstance(value.get("action"), str):
        return None
    user, by = value.get("user"), value.get("by")
    username = value.get("username")
    if username is None and isinstance(user, dict):
        username = user.get("username")
    tries = value.get("tries")
    enqueued = value.get("enqueued_at")
    known = {"action", "username", "tries", "enqueued_at", "send_at", "by"}
    return Seen(
        action=value["action"],
        username=str(username) if username is not None else "",
        tries=tries if isinstance(tries, int) else None,
        enqueued_at=float(enqueued) if isinstance(enqueued, int | float) and not isinstance(enqueued, bool) else None,
        by=str(by.get("username")) if isinstance(by, dict) else str(by) if by is not None else None,
        extras={name: extra for name, extra in value.items() if name not in known},
    )


def _unix(timestamp: Any) -> float | None:
    if not isinstance(timestamp, str):
        return None
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop that program, or choose another port (--port 0 picks a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} may be used by root only; choose one from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host}; use 127.0.0.1 (this machine only) or 0.0.0.0 (every network)"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"
