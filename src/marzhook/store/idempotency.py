"""Idempotency keys: a call that is repeated with the same key gets the first one's answer, and changes nothing.

The answer is stored in the transaction that did the work, so there is no moment at which only one of them exists.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from marzhook.errors import ConflictError, InvalidError
from marzhook.store import schema
from marzhook.store.database import Transaction

LIFETIME = timedelta(hours=24)
MAX_KEY = 255

_t = schema.idempotency_keys


def check_key(key: str) -> str:
    """Return the key, or raise InvalidError with what is expected."""
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidError(
            f"an Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters", code="invalid_idempotency_key"
        )
    return key


def recall(tx: Transaction, owner: str, key: str, request_hash: bytes, *, now: datetime) -> str | None:
    """The answer that this owner's call with this key was given. Raises ConflictError for another request.

    Call it inside the transaction that will do the work: two calls at once then take their turns.
    """
    tx.lock(f"idempotency {owner} {key}")
    # First the old ones: an expired key is as good as new.
    tx.conn.execute(sa.delete(_t).where(_t.c.created_at <= (now - LIFETIME).timestamp()))
    row = tx.conn.execute(sa.select(_t).where(_t.c.owner == owner, _t.c.key == key)).one_or_none()
    if row is None:
        return None
    if row.request_hash != request_hash:
        raise ConflictError(
            "this Idempotency-Key was used for another request within the last 24 hours; use a new key",
            code="idempotency_conflict",
        )
    response: str = row.response
    return response


def kept(conn: sa.Connection, owner: str, key: str) -> str | None:
    """The answer as it is kept now, for who has recalled it and waits for another one."""
    answered: str | None = conn.execute(sa.select(_t.c.response).where(_t.c.owner == owner, _t.c.key == key)).scalar()
    return answered


def remember(tx: Transaction, owner: str, key: str, request_hash: bytes, response: str, *, now: datetime) -> None:
    """Keep the answer for LIFETIME, in the transaction whose work it tells of."""
    tx.conn.execute(
        sa.insert(_t).values(
            owner=owner, key=key, request_hash=request_hash, response=response, created_at=now.timestamp()
        )
    )


def answer(tx: Transaction, owner: str, key: str, response: str | None) -> None:
    """Replace what is kept as the answer: for work that began before its answer could be known. None: forget the key."""
    mine = _t.c.owner == owner, _t.c.key == key
    if response is None:
        tx.conn.execute(sa.delete(_t).where(*mine))
    else:
        tx.conn.execute(sa.update(_t).where(*mine).values(response=response))
