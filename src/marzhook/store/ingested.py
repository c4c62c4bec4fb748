"""Which of a panel's events were taken before: a panel that did not get its answer sends them again.

A panel names no event. What it sends again has the same fingerprint (see `sources.panels`) and has been tried more often,
so a fingerprint alone is not enough: of two events that look alike, both are sent with `tries` 0. Each row is one event
that was taken, with the tries that it was last seen with. One that comes in with more tries is that event's retry, and
takes the row for itself, so that two that look alike take two rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa

from marzhook.store import schema
from marzhook.store.database import Transaction

KEPT: Final = timedelta(days=3)
"""For so long a dated event is known again."""
KEPT_ROWS: Final = 500_000
"""The same, in rows: some 40 MB. Of what was forgotten a retry is taken for a new event."""
A_TRY: Final = timedelta(minutes=15)
"""How long a panel waits between two tries, at the most (3 minutes and a half by default). An event that looks like one
taken longer ago is another one: the same user was deleted once more."""

_CHUNK: Final = 500
_t = schema.ingested


class Arrival(NamedTuple):
    """What tells one incoming event."""

    fingerprint: bytes | None
    """None: of a panel that sends nothing again."""
    tries: int
    dated: bool
    """Nothing else has this fingerprint, so one that is known was taken, whatever its tries say."""


class _Seen(NamedTuple):
    id: int
    tries: int
    seen_at: float


def sift(tx: Transaction, arrivals: Sequence[Arrival], *, now: datetime) -> list[bool]:
    """Of each arrival of one request whether it is new, and remember the new ones, in the transaction that takes them.

    Within a request no event is another's retry: panels send each of their events once in it.
    """
    # Two requests with the same events take their turns; fingerprints share locks, of which there are not many.
    tx.lock(*{f"ingested {one.fingerprint[0]}" for one in arrivals if one.fingerprint})
    known = _known(tx.conn, {one.fingerprint for one in arrivals if one.fingerprint is not None})
    # Somebody between the panel and us may send a whole request again as it was. A dated event in it gives that away, for
    # the panel itself never sends an event with the same tries twice.
    copy = any(
        one.dated and one.fingerprint is not None and any(row.tries == one.tries for row in known[one.fingerprint])
        for one in arrivals
    )
    at = now.timestamp()
    verdicts, new, seen_again = [], [], []
    for one in arrivals:
        if one.fingerprint is None:
            verdicts.append(True)
            continue
        row = next((row for row in known[one.fingerprint] if _is_retry(one, row, at, copy)), None)
        verdicts.append(row is None)
        if row is None:
            new.append({"fingerprint": one.fingerprint, "tries": one.tries, "seen_at": at})
            continue
        known[one.fingerprint].remove(row)
        if one.tries > row.tries:
            seen_again.append({"row": row.id, "seen_tries": one.tries})
    if seen_again:
        update = sa.update(_t).where(_t.c.id == sa.bindparam("row"))
        tx.conn.execute(update.values(tries=sa.bindparam("seen_tries"), seen_at=at), seen_again)
    if new:
        tx.conn.execute(sa.insert(_t), new)
        forget_all_but(tx, _t, KEPT_ROWS)
    return verdicts


def forget_all_but(tx: Transaction, table: sa.Table, rows: int) -> None:
    """Remove all but about the newest `rows` rows: no more than were added since the last call."""
    newest = tx.conn.execute(sa.select(sa.func.max(table.c.id))).scalar()
    tx.conn.execute(sa.delete(table).where(table.c.id <= (newest or 0) - rows))


def _is_retry(one: Arrival, row: _Seen, at: float, copy: bool) -> bool:
    if one.dated:
        return True
    if copy and one.tries == row.tries:
        return True
    return one.tries > row.tries and at - row.seen_at <= (one.tries - row.tries) * A_TRY.total_seconds()


def _known(conn: sa.Connection, fingerprints: Iterable[bytes]) -> defaultdict[bytes, list[_Seen]]:
    """What was taken with these fingerprints, the oldest first."""
    found: defaultdict[bytes, list[_Seen]] = defaultdict(list)
    wanted = sorted(fingerprints)
    columns = (_t.c.fingerprint, _t.c.id, _t.c.tries, _t.c.seen_at)
    for start in range(0, len(wanted), _CHUNK):
        query = sa.select(*columns).where(_t.c.fingerprint.in_(wanted[start : start + _CHUNK])).order_by(_t.c.id)
        for fingerprint, *row in conn.execute(query):
            found[fingerprint].append(_Seen(*row))
    return found
