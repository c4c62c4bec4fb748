"""Lanes that wait for a time, in arrays: an outage leaves one of them for each user, and a hundred thousand must cost next to
nothing. Some 45 bytes each, where the objects of a lane take 550. Pure: no I/O, no clock.

A lane is known here by the hash of its key (64 bits, seeded anew in each process), and not by the key itself: whoever
loads what it waits for learns that from the delivery.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple

WIDTH: Final = 10.0
"""Seconds of the due times that share a bucket. Only a bucket whose time comes is sorted."""
_EMPTY: Final = -1


class Waiting(NamedTuple):
    """A lane that waited."""

    event_ids: tuple[int, ...]
    """What is to be tried, oldest first."""
    more: bool
    """Whether newer events were seen on disk and not kept."""


class WaitingLanes:
    """Which lanes wait, for which events, until when (monotonic seconds)."""

    def __init__(self) -> None:
        # Entries are numbers, their values stand in arrays; `_table` finds an entry by its key's hash (open addressing).
        self._table = array("i", [_EMPTY]) * 64
        self._hash, self._first, self._request = array("q"), array("q"), array("q")
        self._due = array("d")
        self._more = bytearray()
        self._free = array("i")
        self._others: dict[int, tuple[int, ...]] = {}
        """All events of an entry, where they are several."""
        self._patient, self._hasty = _Times(self._due), _Times(self._due)

    def __len__(self) -> int:
        return len(self._hash) - len(self._free)

    def __contains__(self, key: Hashable) -> bool:
        return self._table[self._place(hash(key))] != _EMPTY

    def add(
        self,
        key: Hashable,
        event_ids: tuple[int, ...],
        due: float,
        *,
        more: bool = False,
        patient: bool = False,
        request: int = 0,
    ) -> None:
        """A lane that does not wait yet. `patient`: it waits out its time also through `hasten`; `request`: equal for lanes
        that failed in one request, 0: none that is known."""
        if 3 * (len(self) + 1) > 2 * len(self._table):
            self._grow()
        number = self._free.pop() if self._free else len(self._hash)
        if number == len(self._hash):
            for values in (self._hash, self._first, self._request, self._due, self._more):
                values.append(0)
        self._hash[number], self._first[number], self._request[number] = hash(key), event_ids[0], request
        self._due[number], self._more[number] = due, more
        if len(event_ids) > 1:
            self._others[number] = event_ids
        self._table[self._place(hash(key))] = number
        (self._patient if patient else self._hasty).add(number)

    def seen(self, key: Hashable, event_id: int) -> None:
        """An event of a lane that waits was read from disk: a newer one is remembered as more, an older one (replayed) waits
        with the others and is tried before them."""
        number = self._table[self._place(hash(key))]
        ids = self._ids(number)
        if event_id > ids[-1]:
            self._more[number] = True
        elif event_id not in ids:
            ids = tuple(sorted((*ids, event_id)))
            self._first[number], self._others[number] = ids[0], ids

    @property
    def next_due(self) -> float | None:
        """When the next one is due."""
        times = [times.next_due for times in (self._patient, self._hasty) if times.next_due is not None]
        return min(times, default=None)

    def pop_due(self, now: float, *, limit: int) -> list[Waiting]:
        """Lanes whose time has come, with about `limit` events: what failed in one request comes whole."""
        found: list[Waiting] = []
        events = request = 0
        while True:
            due = [(times, number) for times in (self._hasty, self._patient) if (number := times.peek(now)) is not None]
            times, number = min(due, key=lambda one: self._due[one[1]], default=(None, _EMPTY))
            if times is None or (events >= limit and not 0 < self._request[number] == request):
                return found
            request = self._request[number]
            times.pop()
            found.append(self._remove(number))
            events += len(found[-1].event_ids)

    def hasten(self) -> None:
        """All are due at once, but those that are patient."""
        self._hasty.hasten()

    # -- inside

    def _ids(self, number: int) -> tuple[int, ...]:
        return self._others.get(number) or (self._first[number],)

    def _remove(self, number: int) -> Waiting:
        found = Waiting(self._ids(number), bool(self._more[number]))
        self._others.pop(number, None)
        self._close(self._place(self._hash[number]))
        self._free.append(number)
        return found

    def _place(self, hashed: int) -> int:
        """Where the table has the entry with this hash, or where it would have it."""
        table, mask = self._table, len(self._table) - 1
        place = hashed & mask
        while (number := table[place]) != _EMPTY and self._hash[number] != hashed:
            place = (place + 1) & mask
        return place

    def _close(self, hole: int) -> None:
        """Take the entry at this place out of the table; what was pushed on by it moves back (Knuth, vol. 3, 6.4, R)."""
        table, mask = self._table, len(self._table) - 1
        place = hole
        while (number := table[place := (place + 1) & mask]) != _EMPTY:
            wanted = self._hash[number] & mask
            if (place - wanted) & mask >= (place - hole) & mask:
                table[hole] = number
                hole = place
        table[hole] = _EMPTY

    def _grow(self) -> None:
        known = [number for number in self._table if number != _EMPTY]
        self._table = array("i", [_EMPTY]) * (2 * len(self._table))
        for number in known:
            self._table[self._place(self._hash[number])] = number


class _Times:
    """Entries in the order of their times, in buckets: only the one that is being emptied (`_front`) is sorted."""

    def __init__(self, due: array[float]) -> None:
        self._due = due
        self._buckets: dict[int, array[int]] = {}
        self._least: dict[int, float] = {}
        """The earliest time in each bucket."""
        self._order: list[int] = []
        """Buckets, as a heap."""
        self._front: deque[int] = deque()
        self._hastened: deque[array[int]] = deque()
        """Buckets whose entries are due, whatever their times say."""

    def add(self, number: int) -> None:
        due = self._due[number]
        bucket = int(due // WIDTH)
        if bucket not in self._buckets:
            self._buckets[bucket], self._least[bucket] = array("i"), due
            heapq.heappush(self._order, bucket)
        self._buckets[bucket].append(number)
        self._least[bucket] = min(due, self._least[bucket])

    @property
    def next_due(self) -> float | None:
        if self._hastened:
            return 0.0
        times = [self._due[self._front[0]]] if self._front else []
        if self._order:
            times.append(self._least[self._order[0]])
        return min(times, default=None)

    def peek(self, now: float) -> int | None:
        """The next entry that is due, if there is one."""
        if self._hastened and not self._front:
            self._front.extend(self._hastened.popleft())
            for number in self._front:
                self._due[number] = 0.0
        while not (self._front and self._due[self._front[0]] <= now):
            if not self._order or self._least[self._order[0]] > now:
                return None
            bucket = heapq.heappop(self._order)
            del self._least[bucket]
            self._front = deque(sorted((*self._front, *self._buckets.pop(bucket)), key=self._due.__getitem__))
        return self._front[0]

    def pop(self) -> None:
        """The one that `peek` has shown is taken."""
        self._front.popleft()

    def hasten(self) -> None:
        self._hastened.extend(filter(None, self._in_order()))
        self._front.clear()
        self._buckets.clear()
        self._least.clear()
        self._order.clear()

    def _in_order(self) -> Iterator[array[int]]:
        yield array("i", self._front)
        for bucket in sorted(self._order):
            yield self._buckets[bucket]
