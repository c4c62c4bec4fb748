"""Which endpoints are owed what of the events that are being published: their filters are asked here, and never again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cached_property, lru_cache

import sqlalchemy as sa

from marzhook.endpoint import REMOVED
from marzhook.errors import ConditionError
from marzhook.event import NewEvent
from marzhook.filter import Filter, Offered
from marzhook.store import driver
from marzhook.store.outbox_sql import OWED

log = logging.getLogger(__name__)

Row = tuple[int, str, str, float, str | None, str | None]
"""An event's, as `outbox_sql.INSERT_EVENTS` takes it."""


Creditor = tuple[int, bool, Filter | None]
"""An endpoint that is owed events, whether it gets credentials, and what it wants (None: all). A plain tuple: a publish makes
one for each endpoint."""


def creditors(conn: sa.Connection) -> list[Creditor]:
    """All but those that left the settings or were deleted."""
    # Written out: to unpack and compare what is nearly always four times NULL took as long as all the rest.
    return [
        (id_, bool(full), None if actions is admins is names is text is None else _filter(actions, admins, names, text))
        for id_, full, actions, admins, names, text in driver.execute(conn, OWED, (REMOVED,))
    ]


@lru_cache(maxsize=4096)
def _filter(actions: str | None, admins: str | None, usernames: str | None, condition: str | None) -> Filter:
    """An endpoint's filter as its row has it; read at every publish, and nearly always the same. Endpoints with the same
    one share it, and so what it said of an event."""
    one, two, three = (None if text is None else json.loads(text) for text in (actions, admins, usernames))
    return Filter(one, two, three, condition)


class Publication:
    """The events of one publish."""

    def __init__(self, new_events: Sequence[NewEvent], rows: Sequence[Row]) -> None:
        self._new_events, self._rows = new_events, rows

    @cached_property
    def _offered(self) -> list[Offered]:
        return [Offered(new, row[3], row[4] or "") for new, row in zip(self._new_events, self._rows, strict=True)]

    def owed_to(self, endpoint_id: int, wanted: Filter | None) -> Sequence[Row]:
        """What its filter lets pass. Rather one event too many than one too few: where nobody can tell, it is owed."""
        if wanted is None:
            return self._rows
        if wanted.by_action:
            actions = wanted.actions or ()
            return [row for row in self._rows if row[1] in actions]
        found: list[Row] = []
        unclear: list[str] = []
        for row, offered in zip(self._rows, self._offered, strict=True):
            try:
                passes = offered.meets(wanted)
            except ConditionError as error:
                passes = True
                unclear.append(str(error))
            if passes:
                found.append(row)
        if unclear:
            log.warning(
                "a condition could not be evaluated: the event is delivered all the same",
                extra={"fields": {"endpoint": endpoint_id, "events": len(unclear), "reason": unclear[0]}},
            )
        return found
