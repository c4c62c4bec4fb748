"""What other processes commit: noticed at once where the database tells (PostgreSQL), and by looking now and then."""

from __future__ import annotations

from typing import Final

from marzhook.store.sharing import ChangeWatch
from marzhook.transport.carriers import Carriers

EVERY: Final = 0.2
"""Seconds between two looks without having been told."""
SOON: Final = 0.01
"""Seconds from one look to the next at the least, however often others commit."""


class Watching:
    """The dispatcher's watch, on its thread. The transport's `poll` returns when the database tells something."""

    def __init__(self, watch: ChangeWatch, transport: Carriers) -> None:
        self._watch, self._transport = watch, transport
        self._told = False
        self._last = float("-inf")
        self.next = float("-inf")
        """When to look again, by the monotonic clock."""

    def changed(self, now: float) -> bool:
        """Whether there may be something new that is to be looked for now."""
        if now < self.next and not self._transport.heard:
            return False
        self._told = self._watch.changed() or self._told
        self._transport.heed(self._watch.fileno())
        if self._told and now < self._last + SOON:
            self.next = self._last + SOON
            return False
        self.next = now + EVERY
        if not self._told:
            return False
        self._told, self._last = False, now
        return True

    def close(self) -> None:
        self._transport.heed(None)
        self._watch.close()
