"""What is no HTTP request: jobs, each done by a thread of its own, and handed back through the transport's wake-up.

A job that hangs costs its thread and nothing else: when its time is up the endpoint gets its answer, and as many jobs of one
endpoint as may hang are left behind; further ones are refused until one of those comes back.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from marzhook.clock import Clock
from marzhook.request import Alert, Command, Job, Response
from marzhook.transport.alerts import alert
from marzhook.transport.commands import Programs, run
from marzhook.transport.stop import Stop
from marzhook.transport.tables import write

log = logging.getLogger(__name__)

MAX_THREADS = 64
"""Jobs that are worked on at the same time, hung ones among them; others wait for their turn."""
MAX_HUNG = 4
"""Jobs of one endpoint that may hang beyond their time."""
GRACE = 2.0
"""Seconds beyond a job's time in which it may still end by itself, and say more than that its time was up."""


@dataclass(eq=False, slots=True)
class _Running:
    job: Job
    token: object
    t0: float
    stop: Stop = field(default_factory=Stop)
    begun: bool = False
    left: bool = False
    """Nobody waits for it any more."""
    seconds: float = field(init=False)
    """How long it may take."""
    pause: float | None = None
    """How many seconds the service is to be left alone afterwards, whatever becomes of it."""

    def __post_init__(self) -> None:
        self.seconds = self.job.timeout

    def begin(self, seconds: float, pause: float) -> None:
        self.seconds, self.pause = seconds, pause


class LocalTransport:
    """Sends jobs and gives back responses. All methods belong to one thread."""

    def __init__(self, clock: Clock, wake: Callable[[], None], *, programs: Sequence[str] = ()) -> None:
        """`programs`: what commands may be run, see `commands.Programs`; `wake`: called from any thread."""
        self._clock = clock
        self._wake = wake
        self._programs = Programs(programs)
        self._ended: queue.SimpleQueue[tuple[_Running, Response]] = queue.SimpleQueue()
        self._running: list[_Running] = []
        self._waiting: deque[_Running] = deque()
        self._threads = 0
        self._hung: Counter[int] = Counter()

    def send(self, job: Job, token: object) -> None:
        running = _Running(job, token, self._clock.monotonic())
        self._running.append(running)
        if self._hung[job.endpoint_id] >= MAX_HUNG:
            self._ended.put((running, self._response(running, error="timeout", message="earlier ones still hang")))
            self._wake()
            return
        self._waiting.append(running)
        self._start()

    def timeout(self) -> float:
        """Seconds until a job's time is up."""
        if not self._running:
            return 60.0
        now = self._clock.monotonic()
        return min(running.t0 + running.seconds + GRACE for running in self._running) - now

    def finished(self) -> list[tuple[Any, Response]]:
        """What has come to its end, or has had its time."""
        done: list[tuple[Any, Response]] = []
        if not self._running and self._ended.empty():
            return done
        while not self._ended.empty():
            running, response = self._ended.get()
            if running.begun:
                self._threads -= 1
            if running.left:
                if running.begun:
                    self._hung[running.job.endpoint_id] -= 1
                continue
            self._running.remove(running)
            done.append((running.token, response))
        now = self._clock.monotonic()
        for running in [r for r in self._running if now >= r.t0 + r.seconds + GRACE]:
            message = f"it did not end within {running.seconds:g} s"
            done.append((running.token, self._response(running, error="timeout", message=message)))
            self._leave(running)
        self._start()
        return done

    def reset(self) -> None:
        """Nobody waits any more for what is being done; what can be ended is."""
        for running in list(self._running):
            self._leave(running)

    def _leave(self, running: _Running) -> None:
        self._running.remove(running)
        running.stop.set()
        running.left = True
        if running.begun:
            self._hung[running.job.endpoint_id] += 1
        elif running in self._waiting:
            self._waiting.remove(running)

    def _start(self) -> None:
        while self._waiting and self._threads < MAX_THREADS:
            running = self._waiting.popleft()
            running.begun = True
            self._threads += 1
            threading.Thread(target=self._do, args=(running,), name="job", daemon=True).start()

    def _do(self, running: _Running) -> None:
        job = running.job
        status, error, message, body = 0, None, "", b""
        try:
            if isinstance(job.work, Command):
                status, error, message, body = run(job.work, self._programs, job.timeout, running.stop)
            elif isinstance(job.work, Alert):
                status, error, message = alert(job.work, job.timeout, running.begin)
            else:
                status, error, message = write(job.work, job.timeout)
        except Exception as failure:
            # Whatever an extension raises: it is that endpoint's trouble alone, and may quote what is secret.
            log.debug("a job failed", exc_info=True)
            status, error, message = 1, "other", type(failure).__name__
        self._ended.put((running, self._response(running, None if error else status, error, message, body)))
        self._wake()

    def _response(
        self,
        running: _Running,
        status: int | None = None,
        error: str | None = None,
        message: str = "",
        body: bytes = b"",
    ) -> Response:
        duration = self._clock.monotonic() - running.t0
        started_at = self._clock.now() - timedelta(seconds=duration)
        return Response(started_at, duration, status, body=body, error=error, message=message, pause=running.pause)
