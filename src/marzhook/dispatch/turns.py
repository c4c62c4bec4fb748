"""Whose turn it is, of endpoints that one process at a time sends to (`dispatch/pace.py`), where several share a database.

A turn is a lock of the session that holds the shards: who dies, or loses it, has given it on. Who has an endpoint's turn and
nothing to send there gives it on at once; who has, after TURN seconds, if others want it. So nobody waits for somebody idle,
and a turn is asked for only when there is something to send. In a pause it is given on, too, because what somebody hastens
waits for none; a lock of whom the endpoint has asked for it keeps the others to the pause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from marzhook.dispatch.ownership import Ownership
from marzhook.dispatch.sender import Sender

TURN: Final = 1.0
"""Seconds for which a turn is kept, at the least, where there is something to send."""
ASK_EVERY: Final = 0.2
"""Seconds between two looks whether a turn has become free."""
REST: Final = 3 * ASK_EVERY
"""Seconds for which who gave on a turn that others wanted does not ask for it: long enough for each of them to."""
MOST: Final = 2048
"""Turns that all processes together may have or want: the server has room for some thousand locks."""


class Turns:
    """Belongs to the dispatcher's thread."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._had_since: dict[int, float] = {}
        self._wants: set[int] = set()
        self._not_before: dict[int, float] = {}
        self._told: frozenset[int] = frozenset()
        """Of whose pauses the others are told by us."""
        self._heard: frozenset[int] = frozenset()
        """Of whose pauses we are told by them."""
        self._ask_at = 0.0

    def begin(self) -> None:
        """With none: the session is a new one."""
        self._had_since.clear()
        self._wants.clear()
        self._not_before.clear()
        self._told = self._heard = frozenset()

    def want(self, endpoint_id: int) -> None:
        """There is something to send to it."""
        if endpoint_id not in self._wants:
            self._wants.add(endpoint_id)
            self._ask_at = 0.0

    def keep(self, now: float, senders: Mapping[int, Sender]) -> list[Sender]:
        """Ask for turns, and give on what others wait for or nobody here needs. Returns those whose turn has
        come, or another one's pause gone."""
        ownership = self._ownership
        # While the session is being asked, what it has is about to change: what was given on may still be among it.
        if ownership.asking:
            return []
        come = []
        got, heard = ownership.turns - self._had_since.keys(), ownership.paused
        for id_ in got | (heard ^ self._heard):
            if (sender := senders.get(id_)) is not None and sender.pace.takes_turns:
                sender.pace.held_up = id_ in heard
                if id_ in got:
                    sender.pace.turn, sender.pace.yielding = True, False
                come.append(sender)
        self._had_since.update(dict.fromkeys(got, now))
        self._wants -= got
        self._heard = heard
        give = [id_ for id_, since in self._had_since.items() if self._is_over(id_, senders.get(id_), since, now)]
        self._wants = {id_ for id_ in self._wants if id_ in senders and senders[id_].wants_turn(now)}
        pauses = frozenset(
            id_ for id_ in self._told.union(give) if id_ in senders and senders[id_].pace.paused_until > now
        )
        if give or pauses != self._told or (self._wants and now >= self._ask_at):
            room = max(16, MOST // ownership.processes) - len(self._had_since) - len(pauses)
            want = sorted(id_ for id_ in self._wants if self._not_before.get(id_, 0.0) <= now)[: max(0, room)]
            if (give or want or pauses != self._told) and ownership.exchange(give, want, pauses):
                self._ask_at, self._told = now + ASK_EVERY, pauses
                for id_ in give:
                    self._given(id_, senders.get(id_), now)
        return come

    def _is_over(self, id_: int, sender: Sender | None, since: float, now: float) -> bool:
        if sender is None or not sender.pace.takes_turns:
            return True
        pace = sender.pace
        if id_ in self._ownership.wanted and now >= since + TURN:
            pace.yielding = True
        if not pace.may_give(now):
            return False
        idle = not (sender.room(now) or sender.wants_reading or pace.paused_until > now)
        return pace.yielding or (self._ownership.processes > 1 and idle)

    def _given(self, id_: int, sender: Sender | None, now: float) -> None:
        del self._had_since[id_]
        self._not_before.pop(id_, None)
        if sender is not None and sender.pace.takes_turns:
            if sender.pace.yielding:
                self._not_before[id_] = now + REST
            sender.pace.turn = sender.pace.yielding = False
            if sender.wants_turn(now):
                self._wants.add(id_)
