"""What other processes commit: noticed at once where the database tells (PostgreSQL), and by looking now and then."""

from __future__ import annotations

from typing import Final

from marzhook.dispatch.ownership import Ownership
from marzhook.store.sharing import ChangeWatch
from marzhook.transport.carriers import Carriers

EVERY: Final = 0.2
"""Seconds between two looks without having been told."""
SOON: Final = 0.01
"""Seconds from one look to the next at the least, however often others commit, for each process that shares what is owed: all
are told of every commit, and together they look no more often than one."""


class Watching:
    """The dispatcher's watch, on its thread. The transport's `poll` returns when the database tells something."""

    def __init__(self, watch: ChangeWatch, transport: Carriers, ownership: Ownership | None) -> None:
        self._watch, self._transport, self._ownership = watch, transport, ownership
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
        processes = 1 if self._ownership is None else self._ownership.processes
        soon = self._last + min(SOON * processes, EVERY)
        if self._told and now < soon:
            self.next = soon
            return False
        self.next = now + EVERY
        if not self._told:
            return False
        self._told, self._last = False, now
        return True

    def close(self) -> None:
        self._transport.heed(None)
        self._watch.close()
