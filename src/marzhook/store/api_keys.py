"""API keys on disk: only their hashes, so a stolen database opens nothing."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from marzhook.admin import SCOPES
from marzhook.clock import from_unix
from marzhook.errors import InvalidError, NotFoundError
from marzhook.store import schema
from marzhook.store.database import Transaction

PREFIX: Final = "mzk_"
MAX_NAME = 100

_t = schema.api_keys


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without the key itself."""

    id: int
    name: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None = None


def create(tx: Transaction, *, name: str, scopes: Collection[str], now: datetime) -> tuple[ApiKey, str]:
    """A new key and its text (`mzk_…`, 32 random bytes), which is not kept. Raises InvalidError."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidError(f"name must have 1 to {MAX_NAME} printable characters", code="invalid_name")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        problem = f"{ascii(unknown[0])[:60]} is not one of them" if unknown else "at least one is needed"
        raise InvalidError(f"scopes are {', '.join(SCOPES)}; {problem}", code="invalid_scopes")
    text = PREFIX + secrets.token_urlsafe(32)
    row = tx.conn.execute(
        sa.insert(_t)
        .values(name=name, key_hash=_hash(text), scopes=" ".join(sorted(set(scopes))), created_at=now.timestamp())
        .returning(*_t.c)
    ).one()
    return _read(row), text


def lookup(conn: sa.Connection, text: str) -> ApiKey | None:
    """The key with this text, unless it was revoked."""
    row = conn.execute(sa.select(_t).where(_t.c.key_hash == _hash(text), _t.c.revoked_at.is_(None))).one_or_none()
    return None if row is None else _read(row)


def all_keys(conn: sa.Connection) -> list[ApiKey]:
    """Every key that was ever made, by id."""
    return [_read(row) for row in conn.execute(sa.select(_t).order_by(_t.c.id))]


def revoke(tx: Transaction, key_id: int, *, now: datetime) -> ApiKey:
    """From now on the key opens nothing. Revoking it again changes nothing. Raises NotFoundError."""
    tx.conn.execute(
        sa.update(_t).where(_t.c.id == key_id, _t.c.revoked_at.is_(None)).values(revoked_at=now.timestamp())
    )
    row = tx.conn.execute(sa.select(_t).where(_t.c.id == key_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no API key {key_id}", code="key_not_found")
    return _read(row)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _read(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(
        row.id, row.name, frozenset(row.scopes.split()), from_unix(row.created_at),
        None if row.revoked_at is None else from_unix(row.revoked_at),
    )  # fmt: skip
