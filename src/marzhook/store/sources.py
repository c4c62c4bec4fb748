"""Panels that are followed over their API: where they are, how to log in there, and how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.endpoint import masked_url
from marzhook.errors import ConflictError, NotFoundError
from marzhook.store import schema
from marzhook.store.database import Transaction
from marzhook.store.vault import SEALED_SOURCES, vault_of

_t, _users = schema.sources, schema.source_users


@dataclass(frozen=True, slots=True)
class Source:
    """A panel that is followed. It has either a token or a username and a password."""

    id: int
    kind: str
    url: str = field(repr=False)
    username: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    paused: bool
    created_at: datetime
    snapshot_at: datetime | None
    """When the first snapshot was whole; None: it is not, and nothing is followed."""
    passed_at: datetime | None
    """When all users had been looked at for the last time."""
    failing_since: datetime | None
    error: str | None
    """Why it fails, in words."""

    @property
    def login(self) -> tuple[str | None, str | None, str | None]:
        return self.username, self.password, self.token

    @property
    def name(self) -> str:
        """For people: without what could be secret."""
        return f"{self.id}:{masked_url(self.url)}"


def all_sources(conn: sa.Connection) -> list[Source]:
    """Every source, by id."""
    return [_read(conn, row) for row in conn.execute(sa.select(_t).order_by(_t.c.id))]


def get(conn: sa.Connection, source_id: int) -> Source:
    """Raises NotFoundError."""
    row = conn.execute(sa.select(_t).where(_t.c.id == source_id)).one_or_none()
    if row is None:
        raise NotFoundError(
            f"there is no source {source_id}; `marzhook source list` shows them", code="source_not_found"
        )
    return _read(conn, row)


def exists(conn: sa.Connection, source_id: int) -> bool:
    return conn.execute(sa.select(_t.c.id).where(_t.c.id == source_id)).first() is not None


def following(conn: sa.Connection, kind: str) -> list[int]:
    """Ids of the sources of this kind whose snapshot is whole."""
    return list(conn.execute(sa.select(_t.c.id).where(_t.c.kind == kind, _t.c.snapshot_at.is_not(None))).scalars())


def create(
    tx: Transaction,
    *,
    kind: str,
    url: str,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    now: datetime,
) -> int:
    """A source whose snapshot is still to be written; one of the same address that never got that far gives way.

    Raises ConflictError where this address is followed already.
    """
    tx.lock("sources")
    if (known := followed(tx.conn, url)) is not None:
        raise ConflictError(f"this panel is followed already, as source {known.id}", code="source_exists")
    for source in all_sources(tx.conn):
        if source.url == url:
            remove(tx, source.id)
    sealed = _sealed(tx.conn, {"url": url, "password": password, "token": token})
    row = {"kind": kind, "username": username, "paused": False, "created_at": now.timestamp(), **sealed}
    new_id: int = tx.conn.execute(sa.insert(_t).values(row).returning(_t.c.id)).scalar_one()
    return new_id


def followed(conn: sa.Connection, url: str) -> Source | None:
    """The source of this address, where its snapshot is whole."""
    return next((one for one in all_sources(conn) if one.url == url and one.snapshot_at is not None), None)


def log_in(
    tx: Transaction,
    source_id: int,
    *,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
) -> None:
    """From now on so, in place of how it was; it was tried, and works. Nothing where the source is gone."""
    sealed = _sealed(tx.conn, {"password": password, "token": token})
    note(tx, source_id, username=username, failing_since=None, error=None, **sealed)


def remove(tx: Transaction, source_id: int) -> None:
    """Forget it, with its users. Raises NotFoundError."""
    get(tx.conn, source_id)
    tx.conn.execute(sa.delete(_users).where(_users.c.source_id == source_id))
    tx.conn.execute(sa.delete(_t).where(_t.c.id == source_id))


def note(tx: Transaction, source_id: int, **values: Any) -> None:
    """Set columns: paused, snapshot_at, passed_at, failing_since, error. Times are datetimes. Nothing where it is gone."""
    columns = {name: v.timestamp() if isinstance(v, datetime) else v for name, v in values.items()}
    tx.conn.execute(sa.update(_t).where(_t.c.id == source_id).values(columns))


def counts(conn: sa.Connection) -> dict[int, int]:
    """How many users each source has."""
    query = (
        sa.select(_users.c.source_id, sa.func.count()).where(_users.c.state.is_not(None)).group_by(_users.c.source_id)
    )
    return {row[0]: row[1] for row in conn.execute(query)}


def _sealed(conn: sa.Connection, values: Mapping[str, str | None]) -> dict[str, str | None]:
    vault = vault_of(conn)
    return {name: None if text is None else vault.seal(text) for name, text in values.items()}


def _read(conn: sa.Connection, row: sa.Row[Any]) -> Source:
    values = dict(row._mapping)
    for name in SEALED_SOURCES:
        if values[name] is not None:
            values[name] = vault_of(conn).reveal(values[name])
    for name in ("created_at", "snapshot_at", "passed_at", "failing_since"):
        if values[name] is not None:
            values[name] = from_unix(values[name])
    return Source(**values)
