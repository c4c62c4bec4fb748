"""Who carries what: HTTP requests go to libcurl, all else to threads. To the dispatcher both are one transport."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from marzhook.clock import Clock
from marzhook.request import Job, Request, Response
from marzhook.transport.guard import Network
from marzhook.transport.http import HttpTransport
from marzhook.transport.local import LocalTransport


class Carriers:
    """Sends requests and jobs, and gives back responses. All methods but `wake` belong to one thread."""

    def __init__(
        self, clock: Clock, *, allowed: Iterable[Network] = (), ca_file: str | None = None, programs: Sequence[str] = ()
    ) -> None:
        """`allowed` and `ca_file` as of HttpTransport, `programs` of LocalTransport."""
        self._http = HttpTransport(clock, allowed=allowed, ca_file=ca_file)
        self._local = LocalTransport(clock, self._http.wake, programs=programs)
        self.wake = self._http.wake
        self.heed = self._http.heed
        self.in_flight = 0

    @property
    def heard(self) -> bool:
        """Whether there was something to read on what it heeds, when `poll` last looked."""
        return self._http.heard

    def send(self, request: Request | Job, token: object) -> None:
        """Start it; its response comes out of `poll` with the token."""
        self.in_flight += 1
        if isinstance(request, Request):
            self._http.send(request, token)
        else:
            self._local.send(request, token)

    def poll(self, timeout: float) -> list[tuple[Any, Response]]:
        """Wait up to `timeout` seconds for anything to happen (or `wake`); return what is finished."""
        finished = self._http.poll(min(timeout, self._local.timeout()))
        finished += self._local.finished()
        self.in_flight -= len(finished)
        return finished

    def reset(self) -> None:
        """Drop what is in flight and all connections; go on as if new."""
        self._http.reset()
        self._local.reset()
        self.in_flight = 0

    def close(self) -> None:
        """Drop what is in flight and close everything."""
        self._local.reset()
        self._http.close()
