"""Threads that do something in the background until they are told to stop."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable


class Background(ABC):
    """Start, stop. What it does is `_run`, which ends soon after `_stopping` is set."""

    def __init__(self, name: str, mine: Callable[[], bool] = lambda: True) -> None:
        """`mine`: whether it is for this process to do, where several share a database."""
        self._mine = mine
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Finish the piece of work at hand, and end; `timeout` in seconds. Does nothing where it was never started."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @abstractmethod
    def _run(self) -> None: ...


def stop_all(*these: Background, within: float) -> None:
    """Stop them all at once; after so many seconds, without those that have not ended."""
    until = time.monotonic() + within
    for one in these:
        one.stop(0)
    for one in these:
        one.stop(max(0.0, until - time.monotonic()))
