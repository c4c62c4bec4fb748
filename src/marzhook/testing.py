"""For tests, ours and other people's: a clock that obeys, waiting for signals, and kill points.

`python -m marzhook.testing ARGS…` is `marzhook ARGS…` with the kill point armed that the environment names:
`MARZHOOK_KILL_AT=settle.before_commit:3` dies by SIGKILL when that point is passed for the third time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

from marzhook import signals


class FakeClock:
    """Stands still until it is told to move. `now` and `monotonic` move together."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock: durations do not change with it."""
        self._now += timedelta(seconds=seconds)


class Counter:
    """Counts how often a point was passed, and lets a test wait for it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def __call__(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    @property
    def count(self) -> int:
        return self._count

    def wait(self, count: int = 1, *, timeout: float = 20.0) -> None:
        """Until the point has been passed `count` times in all. Raises TimeoutError."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._count >= count, timeout):
                raise TimeoutError(f"passed {self._count} times within {timeout} s, not {count}")


@contextmanager
def counting(point: str) -> Iterator[Counter]:
    """A Counter of the signal `point` while the block runs."""
    counter = Counter()
    with signals.listening(point, counter):
        yield counter


def eventually(condition: Callable[[], object], *, timeout: float = 20.0, what: str = "the condition") -> None:
    """Poll until the condition is true. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout} s")
        time.sleep(0.005)


@contextmanager
def kill_point(name: str, nth: int) -> Iterator[None]:
    """Die by SIGKILL when `name` is passed for the nth time."""
    left = [nth]

    def passed() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with signals.listening(name, passed):
        yield


def main() -> None:
    from marzhook.cli.main import main as marzhook

    with ExitStack() as stack:
        armed = os.environ.pop("MARZHOOK_KILL_AT", "")
        if armed:
            name, _, nth = armed.partition(":")
            stack.enter_context(kill_point(name, int(nth or 1)))
        sys.argv[0] = "marzhook"
        marzhook()


if __name__ == "__main__":
    main()
