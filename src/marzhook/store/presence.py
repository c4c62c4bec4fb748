"""Whether a database is there: told in the log once when it goes, and once when it is back, however many threads meet it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Final

log = logging.getLogger(__name__)

LATELY: Final = 3.0
"""Seconds for which a database is there that somebody has reached: then it only took no more sessions, which it may say in any
language, and with no code that the driver hands on. Whoever serves looks every 2 s (`dispatch/lookout.py`)."""


class Presence:
    """One for each database that this process knows. Thread-safe."""

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._monotonic = monotonic
        self._reached_at = 0.0
        self._there = False
        """One that was never reached is not told of here: whoever starts on it says so."""
        self._gone_at: float | None = None
        self._changing = Lock()

    def gone(self, why: str) -> None:
        """Somebody did not reach it. It is away when nobody has lately."""
        with self._changing:
            if self._there and self._monotonic() - self._reached_at > LATELY:
                self._there, self._gone_at = False, self._reached_at
                log.warning(
                    "%s is away (%s): until it is back, nothing is read, written or sent; what was acknowledged is kept, and"
                    " it is tried again all the time",
                    self._name, why,
                )  # fmt: skip

    def back(self) -> None:
        """Somebody has reached it."""
        self._reached_at = self._monotonic()
        if self._there:  # nearly always
            return
        with self._changing:
            self._there = True
            if self._gone_at is not None:
                log.warning("%s is back after %.1f s", self._name, self._reached_at - self._gone_at)
                self._gone_at = None


@cache
def presence_of(name: str) -> Presence:
    return Presence(name)
