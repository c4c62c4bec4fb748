"""Work on a database in steps so small that nobody who writes meanwhile notices, whatever the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from marzhook import signals
from marzhook.store.database import Database, Transaction

Key = TypeVar("Key")

BATCH: Final = 100
"""Rows, or pages of long texts beside them, that one transaction removes at the most; a single row may be longer."""
LEAST: Final = 5
"""The same on the slowest disk."""
WORK: Final = 0.005
HOLD: Final = 0.025
"""Seconds that a step's statements may take, and that it may keep other writers waiting, with its commit. Where it took
longer, the next steps are smaller. Two figures, because a slow disk's commit takes its time however small the step."""


@dataclass(slots=True)
class Step:
    """One short piece of work: rows removed, by what they are, and for how long (seconds) it kept other writers out."""

    removed: dict[str, int] = field(default_factory=dict)
    held: float = 0.0


class Stepper:
    """Makes the steps; where one took too long, the next ones are smaller."""

    def __init__(self, database: Database, monotonic: Callable[[], float], *, begin: str | None) -> None:
        """`begin`: what each write transaction is told first."""
        self._database = database
        self._monotonic = monotonic
        self._begin = begin
        self._began = 0.0
        self.limit = BATCH // 2
        """What a step may weigh just now."""

    def read(self, query: sa.TextClause, **values: Any) -> list[Any]:
        with self._database.read(by_key=True) as conn:
            return list(conn.execute(query, values).all())

    @contextmanager
    def batch(self) -> Iterator[tuple[Transaction, Step]]:
        """A write transaction and the step that it is. Raises StoreBusyError."""
        step = Step()
        # What a power failure brings back, the next pass removes again.
        with self._database.write(durable=False) as tx:
            if self._begin is not None:
                tx.conn.exec_driver_sql(self._begin)
            # From here on, and not from when it began to wait for its turn.
            self._began = self._monotonic()
            yield tx, step
            late = self.is_late()
            signals.emit("prune.before_commit")
        step.held = self._monotonic() - self._began
        signals.emit("prune.after_commit")
        if late or step.held > HOLD:
            self.limit = max(LEAST, self.limit // 2)
        else:
            self.limit = min(BATCH, self.limit + LEAST)

    def is_late(self) -> bool:
        """Whether the step that is being done has taken its time."""
        return self._monotonic() - self._began > WORK

    def batches(self, weights: Mapping[Key, int]) -> Iterator[list[Key]]:
        """The keys in groups of which none weighs more than is allowed just now, unless it is a single one."""
        batch: list[Key] = []
        weight = 0
        for key, more in weights.items():
            if batch and weight + more > self.limit:
                yield batch
                batch, weight = [], 0
            batch.append(key)
            weight += more
        if batch:
            yield batch
