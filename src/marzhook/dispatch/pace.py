"""How much one endpoint may get from this process just now: requests on their way, their rate, its pauses and its turn.

Where several processes send, what many requests may take is divided by their shares of the users (rounded down, so that all
together keep below it), and what is too small for that, or counted by the second, goes from one process to the next: only
who has the endpoint's turn sends to it, and gives it on when nothing of his is on its way and the next request may go. So a
rate, a pause and a concurrency of 1 are kept over all of them exactly, whichever of them has something to send.
"""

from __future__ import annotations

from typing import Final

from marzhook.clock import Clock

DIVIDED: Final = 32
"""Requests on their way from which on an endpoint is divided: with 2 of 64 shards each, everybody has at least one."""
LATE = 0.02
"""Seconds by which a look may come late without slowing an endpoint's rate limit down."""


class Pace:
    """Belongs to the dispatcher's thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rate: float | None = None
        """Requests a second at the most; None: no limit."""
        self._again_next = False
        self.in_flight = 0
        self.again_in_flight = 0
        """Of those, retries."""
        self.slots = 0
        self.again_slots = 0
        """A quarter is kept for first tries: retries that hang must not be all that there is."""
        self.paused_until = 0.0
        self.held_up = False
        """Whether the endpoint has asked another process for a pause."""
        self.next_slot = 0.0
        """Where a rate limit holds: when the next request may go."""
        self.takes_turns = False
        self.turn = True
        """Whether this process may send to the endpoint at all."""
        self.yielding = False
        """Others want the turn: nothing more goes out until it is given on."""

    def limit(self, concurrency: int, rate: float | None, share: float | None) -> None:
        """What the endpoint allows, and this process's share of all users; None: it sends to all of them."""
        self.rate = rate
        turns = share is not None and (rate is not None or concurrency < DIVIDED)
        if turns != self.takes_turns:
            self.takes_turns, self.turn, self.yielding, self.held_up = turns, not turns, False, False
        self.slots = concurrency if share is None or turns else int(concurrency * share)
        self.again_slots = max(1, self.slots * 3 // 4)

    def room(self, first: int, again: int, now: float, *, hastened: bool = False) -> int:
        """How many requests may go now, where so many first tries and retries are ready. Below 0 when somebody allows the
        endpoint fewer than are on their way. `hastened`: also in a pause, and while others want the turn."""
        if self.next_slot > now or (not hastened and (self.yielding or self.pauses(now))):
            return 0
        if again:
            again = min(again, self.again_slots - self.again_in_flight)
        return min(first + max(0, again), self.slots - self.in_flight)

    def takes_again(self, first: int, again: int, *, hastened: bool = False) -> bool:
        """Whether the next request is a retry: first tries and retries take turns where both are ready, unless the next retry
        is `hastened`."""
        if not again or not first:
            return again > 0
        if self.again_in_flight >= self.again_slots:
            return False
        self._again_next = hastened or not self._again_next
        return self._again_next

    def left(self, *, again: bool) -> None:
        """A request goes out."""
        self.in_flight += 1
        self.again_in_flight += again
        self.take_slot()

    def landed(self, *, again: bool) -> None:
        self.in_flight -= 1
        self.again_in_flight -= again

    def take_slot(self) -> None:
        """Where a rate limit holds: requests are evenly spaced, with credit for a look that came late but none for idle times.
        So it is exact over any minute."""
        if self.rate:
            moment = self._clock.monotonic()
            start = self.next_slot if self.next_slot > moment - LATE else moment
            self.next_slot = start + 1 / self.rate

    def pause(self, seconds: float | None) -> None:
        if seconds:
            self.paused_until = max(self.paused_until, self._clock.monotonic() + seconds)

    def pauses(self, now: float) -> bool:
        return self.held_up or self.paused_until > now

    def may_give(self, now: float) -> bool:
        """Whether who gets the turn now would not send too soon, or too much. Of a pause he is told."""
        return self.turn and not self.in_flight and now >= self.next_slot
