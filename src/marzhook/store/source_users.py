"""How the users of followed panels were seen last: what events have told of them, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from marzhook.store import schema
from marzhook.store.database import Transaction

WINDOW: Final = 15 * 60.0
"""Seconds for which what polling has told is known again when the panel's webhook tells it: the panel sends every 30 seconds,
and tries three times more, three minutes apart."""

_CHUNK: Final = 500
_t = schema.source_users


@dataclass(frozen=True, slots=True)
class Seen:
    """A user's row. `state` is JSON text (`sources.seen.State`); None: he was deleted."""

    state: str | None
    told: Mapping[str, float] = field(default_factory=dict)
    """Actions that polling has told within WINDOW, and when (Unix seconds)."""
    touched_at: float = 0.0
    """When the panel's webhook changed this last, Unix seconds."""

    def was_told(self, action: str, at: float) -> bool:
        return at - self.told.get(action, float("-inf")) <= WINDOW


def hold(tx: Transaction, source_id: int) -> None:
    """Have this source's rows for oneself until the transaction's end."""
    tx.lock(f"source {source_id}")


def find(conn: sa.Connection, source_id: int, usernames: Iterable[str]) -> dict[str, Seen]:
    """The rows of these users, of those that have one."""
    found = {}
    wanted = sorted(set(usernames))
    columns = (_t.c.username, _t.c.state, _t.c.told, _t.c.touched_at)
    for start in range(0, len(wanted), _CHUNK):
        query = sa.select(*columns).where(
            _t.c.source_id == source_id, _t.c.username.in_(wanted[start : start + _CHUNK])
        )
        for username, state, told, touched_at in conn.execute(query):
            found[username] = Seen(state, json.loads(told) if told else {}, touched_at)
    return found


def names(conn: sa.Connection, source_id: int) -> list[str]:
    """All who are there."""
    return list(
        conn.execute(sa.select(_t.c.username).where(_t.c.source_id == source_id, _t.c.state.is_not(None))).scalars()
    )


def put(tx: Transaction, source_id: int, rows: Mapping[str, Seen]) -> None:
    """Write these rows, over those that are there."""
    if not rows:
        return
    kind = tx.conn.dialect.name
    if kind == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    statement = insert(_t)
    statement = statement.on_conflict_do_update(
        index_elements=[_t.c.source_id, _t.c.username],
        set_={name: statement.excluded[name] for name in ("state", "told", "touched_at")},
    )
    tx.conn.execute(
        statement,
        [
            {
                "source_id": source_id, "username": username, "state": seen.state,
                "told": json.dumps(seen.told) if seen.told else None, "touched_at": seen.touched_at,
            }
            for username, seen in rows.items()
        ],
    )  # fmt: skip


def drop(tx: Transaction, source_id: int, username: str) -> None:
    """Forget one user."""
    tx.conn.execute(sa.delete(_t).where(_t.c.source_id == source_id, _t.c.username == username))


def forget_deleted(tx: Transaction, source_id: int, *, now: float) -> None:
    """Drop the rows of those who were deleted so long ago that nobody tells of it any more."""
    gone = sa.select(_t.c.username, _t.c.told, _t.c.touched_at).where(_t.c.source_id == source_id, _t.c.state.is_(None))
    for username, told, touched_at in tx.conn.execute(gone).all():
        if now - max(touched_at, *(json.loads(told) if told else {}).values(), 0.0) > WINDOW:
            drop(tx, source_id, username)
