"""What panels sent and Marzhook could not take, kept so that somebody can see what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.store import schema
from marzhook.store.database import Transaction
from marzhook.store.ingested import forget_all_but

KEPT_ROWS: Final = 1_000
"""The newest; with KEPT_BODY, some 64 MB at the most."""
KEPT_BODY: Final = 64 * 1024
"""Characters."""

_t = schema.rejected


@dataclass(frozen=True, slots=True)
class NewRejected:
    code: str
    reason: str
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One item that could not be taken."""

    id: int
    at: datetime
    source: str
    """Which panel's route it came by, such as `marzban`."""
    code: str
    reason: str
    body: str = field(repr=False)
    """Its first KEPT_BODY characters, without credentials."""
    length: int
    """Characters of the whole."""


def keep(tx: Transaction, source: str, items: Sequence[NewRejected], *, now: datetime) -> None:
    """Keep these, and forget the oldest beyond KEPT_ROWS."""
    if not items:
        return
    rows = [
        {
            "at": now.timestamp(), "source": source, "code": item.code, "reason": item.reason,
            "body": item.body[:KEPT_BODY].replace("\0", "\ufffd"), "length": len(item.body),
        }
        for item in items[-KEPT_ROWS:]
    ]  # fmt: skip
    tx.conn.execute(sa.insert(_t), rows)
    forget_all_but(tx, _t, KEPT_ROWS)


def newest(conn: sa.Connection, *, before: int | None = None, limit: int = 100) -> list[Rejected]:
    """The newest first; `before`: older than the one with that id."""
    query = sa.select(_t).order_by(_t.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_t.c.id < before)
    return [Rejected(**{**row._mapping, "at": from_unix(row.at)}) for row in conn.execute(query)]
