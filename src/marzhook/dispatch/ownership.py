"""Which part of all users this process sends to, where several share a database. What is shared are shards of usernames.

The dispatcher asks at each turn (`turn`). What goes to the database happens on the settler's thread, on the session that holds
the shards and also settles; so who has lost them cannot settle.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from marzhook.delivery import Delivery, Settlement
from marzhook.dispatch.settler import Settler
from marzhook.errors import MarzhookError, OwnershipLostError
from marzhook.event import SHARDS, shard_of
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.store.sharing import MOST, ShardHolder

log = logging.getLogger(__name__)

SWEEP_EVERY = 1.0
"""Seconds between two looks for shards that are free, or that others lack."""
SILENT = 10.0
"""Seconds without a word from the database after which nothing more is sent: others may have the shards soon."""

GIVEN_UP = 20.0
"""The same after which what is on its way is given up, whatever its timeout: after 25 others have the shards."""


class Ownership:
    """Belongs to the dispatcher's thread."""

    def __init__(
        self, database: Database, outbox: Outbox, settler: Settler, name: str, *, ring: Callable[[], None]
    ) -> None:
        """`ring`: called on the settler's thread when something was asked for and is there."""
        self._database = database
        self._outbox = outbox
        self._settler = settler
        self._name = name
        self._ring = ring
        self._holder: ShardHolder | None = None
        self.asking = False
        """Whether the settler's thread has something to do on the session, and has not done it yet."""
        self._next_sweep = 0.0
        self._busy: Counter[int] = Counter()
        """Deliveries of each shard that are on their way, or answered and not yet on disk."""
        self.shards: frozenset[int] = frozenset()
        """What may be read and sent."""
        self._spare = False
        """Whether there is nothing for this process to do, because enough others are there."""

    def begin(self) -> None:
        """With no shard yet. Raises MarzhookError when the database cannot be reached."""
        self.end()
        self._holder = self._database.shards(self._name)
        self._outbox.settle_on(self._holder.write)
        self._settler.meanwhile = self._holder.keep
        self._outbox.own(())
        self.shards, self._busy = frozenset(), Counter()
        self.asking, self._next_sweep = False, 0.0

    def end(self) -> None:
        """Let others have all of it."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    @property
    def share(self) -> float:
        """Of all users."""
        return len(self.shards) / SHARDS

    @property
    def processes(self) -> int:
        """How many share what is owed, this one included."""
        return 1 if self._holder is None else self._holder.processes

    @property
    def session(self) -> int | None:
        """The database's number of the session that has the shards; None: there is none just now."""
        return None if self._holder is None else self._holder.session

    @property
    def turns(self) -> frozenset[int]:
        """Endpoints whose turn this process has, see `dispatch/turns.py`."""
        return frozenset() if self._holder is None else self._holder.turns

    @property
    def wanted(self) -> frozenset[int]:
        """Endpoints whose turn another process waits for."""
        return frozenset() if self._holder is None else self._holder.wanted

    @property
    def paused(self) -> frozenset[int]:
        """Endpoints that have asked another process for a pause."""
        return frozenset() if self._holder is None else self._holder.paused

    def exchange(self, give: Sequence[int], want: Sequence[int], pauses: frozenset[int]) -> bool:
        """Give these turns on, ask for those, and tell of these pauses; False: not now, something else is under way."""
        if self.asking or self._holder is None:
            return False
        self._ask(partial(self._holder.exchange, give, want, pauses))
        return True

    @property
    def silent(self) -> bool:
        """Whether the database has not been heard of for so long that nothing may be sent."""
        return self._holder is None or self._holder.silent_for() > SILENT

    def turn(self, now: float, *, within: Callable[[], bool]) -> bool:
        """Keep up with what this process holds; return whether `shards` changed. Raises OwnershipLostError: begin anew.

        `within`: whether no endpoint has more requests on their way than this process's share of them. Before, nothing is
        given up: who gets the shards gets their part of what each endpoint may have at once.
        """
        holder = self._holder
        if holder is None:
            raise OwnershipLostError("no session holds any shards")
        if holder.lost is not None:
            raise OwnershipLostError(holder.lost)
        if holder.silent_for() > GIVEN_UP:
            raise OwnershipLostError(f"the database has not answered for {GIVEN_UP:g} s")
        held, surplus = holder.held, holder.surplus
        if not self.asking and now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY
            self._ask(holder.sweep)
        elif not self.asking and (idle := {s for s in surplus - self.shards if not self._busy[s]}) and within():
            self._ask(partial(holder.release, idle))
        if self._spare != (spare := not holder.fair):
            self._spare = spare
            if spare:
                log.info(
                    "no shards: %d processes send already, and more cannot; this one waits until one of them ends", MOST
                )
        if held - surplus == self.shards:
            return False
        self.shards = held - surplus
        self._outbox.own(self.shards)
        log.info("shards", extra={"fields": {"shards": len(self.shards)}})
        return True

    def sent(self, deliveries: Iterable[Delivery]) -> None:
        self._busy.update(shard_of(delivery.event.username) for delivery in deliveries)

    def settled(self, settlements: Sequence[Settlement]) -> None:
        self._busy.subtract(shard_of(settlement.delivery.event.username) for settlement in settlements)

    def _ask(self, what: Callable[[], None]) -> None:
        self.asking = True

        def ask() -> None:
            try:
                what()
            except OwnershipLostError:
                pass  # `turn` finds it out
            except MarzhookError as error:
                log.warning("shards could not be looked after: %s", error)
            finally:
                self.asking = False
                self._ring()

        self._settler.call(ask)
