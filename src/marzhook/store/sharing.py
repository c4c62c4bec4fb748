"""What processes that share a database hold of it, and how they notice each other: the same words for both databases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from marzhook.event import SHARDS

if TYPE_CHECKING:
    from marzhook.store.database import Transaction


MOST: Final = SHARDS // 2
"""Processes that have shards at once: who comes later waits until one of them goes."""


class ChangeWatch(ABC):
    """Notices what is committed by others, also by other processes. Use it from one thread at a time."""

    @abstractmethod
    def changed(self) -> bool:
        """Whether something may have been committed since the last call."""

    def fileno(self) -> int | None:
        """What there is something to read on when a look is worth while; None: nothing tells. It can be another one after
        each call of `changed`."""
        return None

    @abstractmethod
    def close(self) -> None: ...


class ShardHolder(ABC):
    """What one process has of all shards, and the session that has it. Use it from one thread; `close` from any."""

    held: frozenset[int]
    lost: str | None
    """Why it is of no use any more."""
    processes: int
    """How many share what is owed, this one included."""
    fair: int
    """How many shards it is to have; 0: enough others are there already."""
    turns: frozenset[int]
    """Endpoints that of all processes this one may send to, where one at a time does."""
    wanted: frozenset[int]
    """Endpoints whose turn others wait for."""
    paused: frozenset[int]
    """Endpoints that have asked one of the others for a pause."""
    session: int
    """The database's number for it."""

    @property
    @abstractmethod
    def surplus(self) -> frozenset[int]:
        """What is to be given up, because others have less than their share."""

    @abstractmethod
    def sweep(self) -> None:
        """Take free shards up to a fair share. Raises OwnershipLostError."""

    @abstractmethod
    def keep(self) -> None:
        """Say that this process lives, and change nothing. Raises OwnershipLostError."""

    @abstractmethod
    def release(self, shards: Iterable[int]) -> None:
        """Let others have these; nothing of them may be on its way. Raises OwnershipLostError."""

    @abstractmethod
    def exchange(self, give: Sequence[int], want: Sequence[int], pauses: frozenset[int]) -> None:
        """Let others have the turns of the endpoints `give`, and take those of `want` that are free; that the others of
        `want` are waited for is seen by who has them. `pauses`: who has asked this process for one, which whoever gets the
        turn is to see. Raises OwnershipLostError."""

    @abstractmethod
    def write(self) -> AbstractContextManager[Transaction]:
        """A transaction that fails when the shards are lost. Raises OwnershipLostError."""

    @abstractmethod
    def silent_for(self) -> float:
        """Seconds since the database last answered."""

    @abstractmethod
    def close(self) -> None:
        """Let go of all shards."""


class Horizon:
    """Up to which event id all is visible. Where writers take turns, whatever is committed is."""

    floor: float = float("inf")

    def advance(self) -> None:
        """Look again."""


class Caretaker:
    """Whether this process looks after users, retention and the like: one of those that share a database. Thread-safe."""

    def mine(self) -> bool:
        """Whether it is this one, now. Where nobody shares, it is."""
        return True

    def close(self) -> None:
        """Let another one be it."""
