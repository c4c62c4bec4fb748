"""From whoever has something to tell to a collector: a bounded queue, and a thread that works it off."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from marzhook.background import Background

log = logging.getLogger(__name__)

REST: Final = 3.0
"""For so many times as long as it computed the thread rests: at full load it takes a quarter of a core from those who deliver,
and what is too much is dropped."""
SELDOM: Final = 60.0
"""Seconds between two complaints."""


class Channel(Background):
    """`put` from any thread; it costs next to nothing, because what is told is made on the channel's own thread."""

    def __init__(
        self, name: str, export: Callable[[Sequence[Any]], object], *, delay: float, most: int, at_once: int
    ) -> None:
        """`export` sends so many things `at_once`, and may block. `delay`: seconds that a thing waits for company; `most`:
        things that may wait, more are dropped."""
        super().__init__(f"otel {name}")
        self._name, self._export = name, export
        self._delay, self._most, self._at_once = delay, max(most, at_once), at_once
        self._queue: deque[tuple[int, Callable[[], Sequence[Any]]]] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiting = 0
        self._dropped = 0
        self._complaints = Seldom(log)

    def put(self, count: int, make: Callable[[], Sequence[Any]]) -> None:
        """Send these `count` things soon; `make` makes them."""
        with self._lock:
            if self._waiting + count > self._most:
                self._dropped += count
                return
            self._waiting += count
            self._queue.append((count, make))
            full = self._waiting >= self._at_once
        if full:
            self._wake.set()

    def stop(self, timeout: float | None = None) -> None:
        self._stopping.set()
        self._wake.set()
        super().stop(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._delay)
            self._wake.clear()
            self._work_off()
        self._work_off()

    def _work_off(self) -> None:
        while self._queue:
            began = time.thread_time()
            try:
                things = self._take()
                for start in range(0, len(things), self._at_once):
                    self._export(things[start : start + self._at_once])
            except Exception as error:
                self._complaints.tell(
                    f"{self._name} could not be sent to the collector: {type(error).__name__}: {error}"
                )
            self._stopping.wait(REST * (time.thread_time() - began))
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._complaints.tell(f"{dropped} {self._name} were dropped: more came than the collector took")

    def _take(self) -> list[Any]:
        things: list[Any] = []
        while self._queue and len(things) < self._at_once:
            with self._lock:
                count, make = self._queue.popleft()
                self._waiting -= count
            things += make()
        return things


class Seldom(logging.Handler):
    """Complaints about the collector, its libraries' too: one a minute at the most, however much goes wrong."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())

    def tell(self, message: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SELDOM
            self._logger.warning("OpenTelemetry: %s (told once a minute at the most)", message)
