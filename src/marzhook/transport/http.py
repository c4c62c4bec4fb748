"""HTTP through libcurl's multi interface, driven by epoll: one thread, thousands of requests.

`socket_action` (and not `perform` or `select`) keeps the cost of an event independent of how many connections there
are, so receivers that hang cost nothing but their place.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import certifi
import pycurl

from marzhook.clock import Clock
from marzhook.request import MAX_RESPONSE, Request, Response
from marzhook.transport.guard import Guard, Network
from marzhook.transport.headers import Headers
from marzhook.transport.timing import timing_of

_TLS_ERRORS = frozenset({35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98})
_RESET_ERRORS = frozenset({pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE})
_KINDS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "dns",
    pycurl.E_COULDNT_CONNECT: "connect",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    8: "protocol",  # CURLE_WEIRD_SERVER_REPLY, which pycurl does not name
    pycurl.E_URL_MALFORMAT: "protocol",
    pycurl.E_UNSUPPORTED_PROTOCOL: "protocol",
    pycurl.E_BAD_CONTENT_ENCODING: "protocol",
}
IDLE_CONNECTIONS = 256
"""Connections kept open for the next request."""
SMALL_BODY = 4096
"""Bytes of a body that an idle handle may go on holding."""
AT_ONCE = 32
"""Sockets that are dealt with at once: who has a new request waits for no more than these, however many others answer."""


class HttpTransport:
    """Sends requests and gives back responses. All methods but `wake` belong to one thread."""

    def __init__(self, clock: Clock, *, allowed: Iterable[Network] = (), ca_file: str | None = None) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._sockets = _Sockets(self._epoll)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._heeded: int | None = None
        self.heard = False
        """Whether there was something to read on what it heeds, when `poll` last looked."""
        self._allowed = tuple(allowed)
        self._ca_file = ca_file or certifi.where()
        self._closing = threading.Lock()
        self._closed = False
        self._open, self._guarded = self._pools()
        self.in_flight = 0

    def _pools(self) -> tuple[_Pool, _Pool]:
        # Two pools: a connection that an unguarded request opened must never be reused by a guarded one, whose address
        # would then not be checked.
        return (
            _Pool(self._clock, self._sockets, self._ca_file, None),
            _Pool(self._clock, self._sockets, self._ca_file, Guard(self._allowed)),
        )

    def send(self, request: Request, token: object) -> None:
        """Start a request; its response comes out of `poll` with the token."""
        (self._guarded if request.guarded else self._open).start(request, token)
        self.in_flight += 1

    def poll(self, timeout: float) -> list[tuple[Any, Response]]:
        """Wait up to `timeout` seconds for anything to happen (or `wake`); return what is finished."""
        for pool in (self._open, self._guarded):
            timeout = min(timeout, pool.timeout())
        self.heard = False
        for fd, event in self._epoll.poll(max(0.0, timeout), AT_ONCE):
            if fd == self._wake:
                try:
                    os.eventfd_read(self._wake)
                except BlockingIOError:
                    pass
                continue
            if fd == self._heeded:
                self.heard = True
                continue
            owner = self._sockets.owner(fd)
            if owner is not None:
                owner.act(fd, event)
        finished = self._open.finished() + self._guarded.finished()
        self.in_flight -= len(finished)
        return finished

    def heed(self, descriptor: int | None) -> None:
        """Let `poll` return also when there is something to read on this one; None: on none. It is let go of before it is
        closed, or at once after."""
        if descriptor == self._heeded:
            return
        if self._heeded is not None:
            with suppress(OSError):  # it was closed
                self._epoll.unregister(self._heeded)
        if descriptor is not None:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._heeded = descriptor

    def wake(self) -> None:
        """Let a running or the next `poll` return at once. From any thread; after `close` it does nothing."""
        with self._closing:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def reset(self) -> None:
        """Drop what is in flight and all connections; go on as if new."""
        self._open.close()
        self._guarded.close()
        self._open, self._guarded = self._pools()
        self.in_flight = 0

    def close(self) -> None:
        """Drop what is in flight and close everything."""
        with self._closing:
            self._closed = True
            self._open.close()
            self._guarded.close()
            self._epoll.close()
            # Not before: the number could be another file's by now, and `wake` would write into that.
            os.close(self._wake)


class _Sockets:
    """Which sockets epoll looks at, and for which pool.

    libcurl wants a socket watched while a request is on it and not between two requests. It stays with epoll all the
    same, because to take it out and put it in again costs as much as sending; what an idle one then says is passed over.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._known: set[int] = set()
        self._owners: dict[int, _Pool] = {}

    def watch(self, fd: int, mask: int, pool: _Pool) -> None:
        self._owners[fd] = pool
        if fd in self._known:
            try:
                self._epoll.modify(fd, mask)
            except FileNotFoundError:
                # Closed meanwhile, with which the kernel forgot it; the number is another socket's now.
                self._epoll.register(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self._known.add(fd)

    def rest(self, fd: int) -> None:
        """No request is on it just now, or it is about to be closed."""
        self._owners.pop(fd, None)

    def owner(self, fd: int) -> _Pool | None:
        """For whom it is watched; None: for nobody any more."""
        pool = self._owners.get(fd)
        if pool is None:
            # An idle connection that the receiver has closed, say: it would be ready for ever.
            self._known.discard(fd)
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass
        return pool


def _kept_connections() -> int:
    """How many connections libcurl keeps, those in use among them. Where more are in use, each one that comes free is closed,
    and the next request has to open another."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if hard == resource.RLIM_INFINITY else max(IDLE_CONNECTIONS, min(4096, hard // 4))


class _Exchange:
    """A libcurl handle and the request that it carries just now. Reused: what a request leaves as it was is not set again."""

    __slots__ = ("_timeouts", "_url", "body", "curl", "head", "refused", "request", "t0", "token", "truncated")

    def __init__(self, curl: Any, guard: Guard | None) -> None:
        self.curl = curl
        self.request: Request | None = None
        self._url = ""
        self._timeouts = (0.0, 0.0)
        self.token: object = None
        self.head: list[bytes] = []
        self.refused: str | None = None
        self.clear()
        curl.exchange = self
        curl.setopt(pycurl.HEADERFUNCTION, self.head.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._receive)
        if guard is not None:
            curl.setopt(pycurl.OPENSOCKETFUNCTION, self._opener(guard))

    def begin(self, request: Request, token: object, clock: Clock) -> None:
        curl = self.curl
        self.request, self.token = request, token
        url, headers, body, connect_timeout, timeout, _ = request
        if url != self._url:
            curl.setopt(pycurl.URL, url)
            self._url = url
        lines = [*headers, "Expect:"]
        try:
            curl.setopt(pycurl.HTTPHEADER, lines)
        except UnicodeEncodeError:
            curl.setopt(pycurl.HTTPHEADER, [line.encode("latin-1") for line in lines])
        curl.setopt(pycurl.POSTFIELDS, body)
        if self._timeouts != (connect_timeout, timeout):
            # Never 0: to libcurl that is "no limit".
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(connect_timeout * 1000)))
            curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout * 1000)))
            self._timeouts = connect_timeout, timeout
        self.t0 = clock.monotonic()

    def clear(self) -> None:
        """Keep nothing of the request: its body may have 256 KiB, and idle handles are as many as were ever in flight."""
        if self.request is not None and len(self.request.body) > SMALL_BODY:
            self.curl.setopt(pycurl.POSTFIELDS, b"")
        self.request = self.token = self.refused = None
        self.head.clear()
        self.body = b""
        self.truncated = False

    def _receive(self, data: bytes) -> int:
        """libcurl's write callback; an answer other than the length ends the transfer."""
        if not self.body and len(data) <= MAX_RESPONSE:
            self.body = data
            return len(data)
        room = MAX_RESPONSE - len(self.body)
        self.body += data[:room]
        if len(data) > room:
            # Enough to judge by: the rest, however long, is not worth the receiver's and our time.
            self.truncated = True
            return 0
        return len(data)

    def _opener(self, guard: Guard) -> Callable[[int, Any], Any]:
        def opened(_purpose: int, address: Any) -> Any:
            family, kind, protocol, where = address
            host = where[0] if isinstance(where, tuple) else ""
            if isinstance(host, bytes):
                host = host.decode()
            if not guard.permits(host):
                self.refused = host or "a local socket"
                return pycurl.SOCKET_BAD
            return socket.socket(family, kind, protocol)

        return opened


class _Pool:
    """A libcurl multi handle with its connections."""

    def __init__(self, clock: Clock, sockets: _Sockets, ca_file: str, guard: Guard | None) -> None:
        self._clock = clock
        self._sockets = sockets
        self._ca_file = ca_file
        self._guard = guard
        self._deadline: float | None = None
        self._idle: list[_Exchange] = []
        self._running: set[_Exchange] = set()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, _kept_connections())

    def start(self, request: Request, token: object) -> None:
        exchange = self._idle.pop() if self._idle else _Exchange(self._handle(), self._guard)
        exchange.begin(request, token, self._clock)
        self._multi.add_handle(exchange.curl)
        self._running.add(exchange)

    def timeout(self) -> float:
        """Seconds until libcurl wants to be called."""
        return 60.0 if self._deadline is None else self._deadline - self._clock.monotonic()

    def act(self, fd: int, event: int) -> None:
        mask = 0
        if event & ~select.EPOLLOUT:
            mask |= pycurl.CSELECT_IN
        if event & select.EPOLLOUT:
            mask |= pycurl.CSELECT_OUT
        self._multi.socket_action(fd, mask)

    def finished(self) -> list[tuple[Any, Response]]:
        if self._deadline is not None and self._clock.monotonic() >= self._deadline:
            self._deadline = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        done: list[tuple[Any, Response]] = []
        while True:
            waiting, good, bad = self._multi.info_read(500)
            now, ended_at = self._clock.monotonic(), self._clock.now()
            done += [self._end(curl, 0, "", now, ended_at) for curl in good]
            done += [self._end(curl, code, text, now, ended_at) for curl, code, text in bad]
            if not waiting:
                return done

    def close(self) -> None:
        for exchange in self._running:
            self._multi.remove_handle(exchange.curl)
            exchange.curl.close()
        for exchange in self._idle:
            exchange.curl.close()
        self._multi.close()

    def _handle(self) -> Any:
        curl = pycurl.Curl()
        for option, value in (
            (pycurl.POST, 1),
            (pycurl.NOSIGNAL, 1),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            # Never a proxy from the environment: the guard looks at the address that is connected to.
            (pycurl.PROXY, ""),
            (pycurl.SSL_VERIFYPEER, 1),
            (pycurl.SSL_VERIFYHOST, 2),
            (pycurl.CAINFO, self._ca_file),
            (pycurl.TCP_KEEPALIVE, 1),
        ):
            curl.setopt(option, value)
        return curl

    def _end(self, curl: Any, code: int, text: str, now: float, ended_at: datetime) -> tuple[Any, Response]:
        exchange: _Exchange = curl.exchange
        self._multi.remove_handle(curl)
        duration = now - exchange.t0
        # Reckoned back from now: the wall clock may have been set meanwhile, and what is decided next goes by the new time.
        started_at = ended_at - timedelta(seconds=duration)
        status = curl.getinfo(pycurl.RESPONSE_CODE) or None
        if code == 0 or (exchange.truncated and status is not None):
            headers = Headers(exchange.head.copy())
            finished = Response(
                started_at, duration, status, headers, exchange.body, timing=timing_of(curl, duration, sent=True)
            )
        else:
            # Not CONNECT_TIME: that is 0 also where the connection stood already.
            connected = curl.getinfo(pycurl.REQUEST_SIZE) > 0
            error, message = _explain(exchange, code, text, status, connected=connected)
            finished = Response(
                started_at, duration, error=error, message=message, body=exchange.body,
                timing=timing_of(curl, duration, sent=connected),
            )  # fmt: skip
        token = exchange.token
        self._running.discard(exchange)
        if len(self._idle) < IDLE_CONNECTIONS:
            exchange.clear()
            self._idle.append(exchange)
        else:
            curl.close()
        return token, finished

    def _on_socket(self, what: int, fd: int, _multi: object, _data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            self._sockets.rest(fd)
            return
        mask = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        self._sockets.watch(fd, mask, self)

    def _on_timer(self, milliseconds: int) -> None:
        self._deadline = None if milliseconds < 0 else self._clock.monotonic() + milliseconds / 1000


def _readable(text: str) -> str:
    """libcurl quotes what the receiver sent: that may be no text (halves of surrogate pairs, which no database takes), or
    meant for the terminal on which it is logged."""
    return "".join(c if c.isprintable() else "�" for c in text)[:500]


def _explain(exchange: _Exchange, code: int, text: str, status: int | None, *, connected: bool) -> tuple[str, str]:
    request, text = exchange.request, _readable(text)
    assert request is not None
    if exchange.refused is not None:
        return "refused_address", (
            f"{exchange.refused} is not a public address; MARZHOOK_ALLOW_ADDRESSES can allow it for endpoints made over"
            " the API"
        )
    if code == pycurl.E_OPERATION_TIMEDOUT:
        if not connected:
            return "timeout", f"no connection within {min(request.connect_timeout, request.timeout):g} s"
        begun = f" (it began with status {status})" if status else ""
        return "timeout", f"no complete answer within {request.timeout:g} s{begun}"
    if code in _TLS_ERRORS:
        return "tls", text
    if code in _RESET_ERRORS:
        return "reset", text
    return _KINDS.get(code, "other"), text
