"""The built-in inbox as an endpoint: where it is, which the database remembers, and its token, which it derives."""

from __future__ import annotations

import hashlib
import hmac

import sqlalchemy as sa

from marzhook.store import endpoints
from marzhook.store.database import Database, Transaction

PATH = "/inbox/"
_KEY = "inbox"


def token(database: Database, conn: sa.Connection) -> str:
    """What an address of the inbox ends with. Derived from the key of this database's tokens: nothing more to keep."""
    key = database.meta(conn, "token_key")
    assert key is not None
    return hmac.new(key.encode(), b"inbox", hashlib.sha256).hexdigest()[:32]


def address(database: Database, conn: sa.Connection) -> str | None:
    """The inbox's URL, where it is an endpoint."""
    base = database.meta(conn, _KEY)
    return f"{base}{PATH}{token(database, conn)}" if base else None


def remember(database: Database, tx: Transaction, base: str) -> None:
    """From now on it is an endpoint, at this service's own `http://host:port`; "": no longer."""
    database.set_meta(tx, _KEY, base)


def move(database: Database, tx: Transaction, base: str) -> None:
    """The service listens here now: where the inbox is an endpoint, its address follows, and what waits for it stays."""
    before = address(database, tx.conn)
    if before is None:
        return
    remember(database, tx, base)
    after = address(database, tx.conn)
    for endpoint in endpoints.all_endpoints(tx.conn):
        if endpoint.url == before and before != after:
            endpoints.update(tx, endpoint.id, url=after)
