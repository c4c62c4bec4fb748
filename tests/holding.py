"""Somebody else who keeps the database to himself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from marzhook.store.database import Database
from marzhook.store.postgresql import PostgreSQLDatabase


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Until the block's end, others can read, and nobody can write."""
    if isinstance(database, PostgreSQLDatabase):
        with closing(database.connect()) as other:
            other.execute("BEGIN; LOCK TABLE events, pending, settled, attempts, users, counters IN EXCLUSIVE MODE")
            yield
        return
    with closing(sqlite3.connect(database.name, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
