"""Where time comes from: passed in, so that tests own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """`now` is the wall clock (aware, UTC); `monotonic` (seconds) never jumps and is for durations and waiting."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)


def from_unix(seconds: float) -> datetime:
    """Unix seconds to an aware UTC datetime; exact to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC)
