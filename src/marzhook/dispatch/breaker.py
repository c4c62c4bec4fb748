"""An endpoint's circuit breaker: an outage belongs to the endpoint, not to each delivery. Pure; times are monotonic seconds.

    closed --5 failures in a row, or half of the last 100--> open --probe accepted--> closed
                                                              ^  |
                                                              +--+ probe failed: the next one later

While it is open nothing is sent but one real delivery at a time, after 5 s, 10 s, 20 s … 5 min; no delivery's tries are
counted, so a long outage uses up nobody's schedule. Where several processes send to the endpoint they share its outages
(`dispatch/outages.py`), and each one's breaker follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

IN_A_ROW = 5
LAST = 100
SHARE = 0.5
FIRST_PROBE, LONGEST_PROBE = 5.0, 300.0
JITTER = 0.1


class Breaker:
    """Ask `may_send`, tell `sent`, then `succeeded`, `failed`, `rejected` or `not_sent`."""

    def __init__(self, random: Callable[[], float], *, first_probe: float = FIRST_PROBE) -> None:
        """`random` is in [0, 1) and stretches each wait a little; `first_probe` is in seconds."""
        self._random = random
        self._first_probe = first_probe
        self._recent: deque[bool] = deque(maxlen=LAST)
        self._failures = 0
        self._in_a_row = 0
        self.probes = 0
        """Probes that failed."""
        self._probing = False
        self._last_rejected: int | None = None
        self.open = False
        self.probe_at = 0.0
        """While open: when the next probe may go."""

    @property
    def accepts_others(self) -> bool:
        """Whether anything was accepted lately: what is rejected now is then the event's own fault."""
        return self._failures < len(self._recent)

    @property
    def failing(self) -> bool:
        """Whether the latest request failed, as far as this process knows."""
        return self._in_a_row > 0

    def may_send(self, now: float) -> bool:
        return not self.open or (not self._probing and now >= self.probe_at)

    def sent(self) -> None:
        """A request goes out."""
        self._probing = self.open

    def not_sent(self) -> None:
        """What `sent` told of could not even be made: that says nothing of the endpoint, and the next may go."""
        self._probing = False

    def succeeded(self) -> bool:
        """A request was accepted. Returns whether that ended an outage."""
        self._note(True)
        self._in_a_row = 0
        self._last_rejected = None
        recovered = self.open
        if recovered:
            self.end()
        return recovered

    def follow(self, probe_at: float, probes: int) -> None:
        """Another process says that there is an outage, of which so many probes have failed."""
        self.open = True
        self.probe_at, self.probes = probe_at, probes

    def end(self) -> None:
        """The outage is over, whoever found that out."""
        self.open = self._probing = False
        self.probes = self._in_a_row = self._failures = 0
        self._last_rejected = None
        self._recent.clear()
        self._recent.append(True)

    def failed(self, now: float, *, retry_after: float | None = None) -> None:
        """A request failed. A receiver's `retry_after` (seconds) may put the next probe off, never hasten it."""
        self._note(False)
        self._in_a_row += 1
        if self.open:
            if self._probing:
                # Others that were on their way when it opened come back too; they tell nothing new.
                self.probes += 1
                self._put_off(now, retry_after)
            return
        bad = len(self._recent) == LAST and self._failures >= LAST * SHARE
        if self._in_a_row >= IN_A_ROW or bad:
            self.open = True
            self.probes = 0
            self._put_off(now, retry_after)

    def rejected(self, event_id: int, now: float) -> None:
        """The receiver refused one event. Several different ones in a row are an outage; the same one again tells nothing."""
        if event_id != self._last_rejected or self._probing:
            self._last_rejected = event_id
            self.failed(now)

    def _put_off(self, now: float, retry_after: float | None) -> None:
        self._probing = False
        wait = min(self._first_probe * 2 ** min(self.probes, 30), LONGEST_PROBE) * (1 + JITTER * self._random())
        self.probe_at = now + max(wait, retry_after or 0.0)

    def _note(self, good: bool) -> None:
        if len(self._recent) == LAST and not self._recent[0]:
            self._failures -= 1
        self._recent.append(good)
        self._failures += not good
