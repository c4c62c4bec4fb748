"""Rows in every table of the schema, whatever tables there will be, and all rows of a database to compare with another's."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import sqlalchemy as sa

from marzhook.store import schema
from marzhook.store.database import Database
from marzhook.store.vault import SEALED, SEALED_META, SEALED_SOURCES

SECRET = {"endpoints": SEALED, "sources": SEALED_SOURCES}
EITHER = {("attempts", "status"): 0, ("attempts", "error"): 1, ("sources", "password"): 0, ("sources", "token"): 1}
"""Of these a row has one or the other: which of the two rows has it."""
NUMBERS = (1, 2)


def fill(database: Database) -> None:
    """Two rows in each table of an empty database; each column has a value in one of them at least."""
    with database.write() as tx:
        for table in schema.metadata.sorted_tables:
            for number in NUMBERS if table is not schema.meta else ():
                tx.conn.execute(
                    sa.insert(table), {column.name: _value(database, table, column, number) for column in table.c}
                )


def _value(database: Database, table: sa.Table, column: sa.Column[Any], number: int) -> Any:
    where = (table.name, column.name)
    if EITHER.get(where, number % 2) != number % 2:
        return None
    if where == ("settled", "event_id"):
        # No delivery is owed and settled at once.
        return sum(NUMBERS) - number
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return number == 1
    if isinstance(kind, sa.Integer):
        return number
    if isinstance(kind, sa.Double):
        return 1_700_000_000.123456 + number
    if isinstance(kind, sa.LargeBinary):
        return bytes([0, 255, number])
    words = _allowed(table, column)
    text = words[number % len(words)] if words else f"{column.name} {number}: علی 🙂"
    return database.vault.seal(text) if column.name in SECRET.get(table.name, ()) else text


def _allowed(table: sa.Table, column: sa.Column[Any]) -> list[str]:
    for rule in table.constraints:
        if isinstance(rule, sa.CheckConstraint) and str(rule.sqltext).startswith(f"{column.name} IN ("):
            return re.findall(r"'(\w+)'", str(rule.sqltext))
    return []


def everything(database: Database) -> dict[str, Counter[tuple[Any, ...]]]:
    """Of each table how often each row is there, with its secrets in plain."""
    with database.read() as conn:
        return {
            table.name: Counter(_plain(database, table, row) for row in conn.execute(sa.select(table)))
            for table in schema.metadata.sorted_tables
        }


def _plain(database: Database, table: sa.Table, row: sa.Row[Any]) -> tuple[Any, ...]:
    secret = SECRET.get(table.name, ())
    if table is schema.meta and row.key in SEALED_META:
        secret = ("value",)
    return tuple(
        database.vault.reveal(value) if column.name in secret and value is not None else value
        for column, value in zip(table.c, row, strict=True)
    )


def columns_without_a_value(database: Database) -> list[str]:
    with database.read() as conn:
        return [
            str(column)
            for table in schema.metadata.sorted_tables
            for column in table.c
            if not conn.execute(sa.select(sa.literal(1)).where(column.is_not(None)).limit(1)).first()
        ]
