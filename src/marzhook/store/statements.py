"""Statements for two databases: most are the same, and where they differ, both texts stand next to each other.

The reasons come again and again. Lists reach SQLite as JSON text (`json_each`) and PostgreSQL as arrays (`unnest`, `= ANY`).
SQLite's planner is told the order of its loops (`CROSS JOIN`, `INDEXED BY`), because it knows little of how the rows lie;
PostgreSQL's has its statistics. Where tables change faster than those it is told too: `LATERAL` with `OFFSET 0` is worked off
in the order in which it stands, and `BY_KEY` lets it go through keys only.
"""
# ruff: noqa: S608 - put together of our own names

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as dialect
from sqlalchemy.ext.compiler import compiles

from marzhook.store import driver
from marzhook.store.driver import Statement, is_postgresql

_DIALECT = dialect.dialect()  # type: ignore[no-untyped-call]

BY_KEY: Final = "; ".join(
    [
        *(f"SET LOCAL enable_{way} = off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")),
        # What is hot is in memory.
        "SET LOCAL random_page_cost = 1.1",
    ]
)
"""Begins PostgreSQL's transactions that look up few rows among very many, and leave the planner no other way than a key."""


# -- through Core


class Array(sa.types.TypeDecorator[Sequence[Any]]):
    """The type of a parameter that is a list: JSON text on SQLite, an array's on PostgreSQL (which still has to be cast)."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: sa.Dialect) -> str | None:
        if value is None:
            return None
        return _array(value) if dialect.name == "postgresql" else json.dumps(value)


class _Text(sa.TextClause):
    inherit_cache = True
    postgresql: sa.TextClause


def text(sqlite: str, postgresql: str, *arrays: str) -> sa.TextClause:
    """A statement in the words of both, with the same named parameters, of which `arrays` are lists."""
    found, other = _Text(sqlite), sa.TextClause(postgresql)
    if arrays:
        bound = [sa.bindparam(name, type_=Array) for name in arrays]
        found, other = found.bindparams(*bound), other.bindparams(*bound)
    found.postgresql = other
    return found


def off_index(conn: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column, to be compared without its index: SQLite stays on the one that has the rows in the order that is wanted."""
    return column if is_postgresql(conn) else sa.literal_column(f"+{column}", column.type)


@compiles(_Text)
def _in_sqlite(element: _Text, compiler: Any, **options: Any) -> str:
    return str(compiler.visit_textclause(element, **options))


@compiles(_Text, "postgresql")
def _in_postgresql(element: _Text, compiler: Any, **options: Any) -> str:
    return str(compiler.visit_textclause(element.postgresql, **options))


# -- through the driver


def joined(sqlite: str) -> Statement:
    """A statement whose `CROSS JOIN … ON` fixes the order of SQLite's loops, and is a JOIN to PostgreSQL."""
    return Statement(sqlite, sqlite.replace("CROSS JOIN", "JOIN"))


class Many:
    """A statement for many rows at once: the driver's own `executemany` on SQLite, one array a column on PostgreSQL, where
    each statement is a journey.

    SQLite works the rows off one after the other. PostgreSQL sees all of them as one: none may name what another one does.
    """

    def __init__(self, sqlite: str, postgresql: str, *, event_id: int | None = None) -> None:
        """`event_id`: of history, the place of an event's id among the parameters; that of the table `t` is called so, too."""
        self.words = Statement(sqlite, postgresql)
        self._event_id = event_id

    def __call__(self, conn: sa.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Each row's values in the order of the parameters; returns how many rows were touched."""
        if not rows:
            return 0
        if not is_postgresql(conn):
            return self._one_by_one(conn, rows)
        words, columns = self.words.postgresql, list(zip(*rows, strict=True))
        if self._event_id is not None:
            # As text, which the planner sees at once: it locks none but these ids' partitions, and so waits for no others.
            ids = columns[self._event_id]
            words += f" AND t.event_id BETWEEN {min(ids):d} AND {max(ids):d}"
        return driver.execute(conn, words, [_array(column) for column in columns]).rowcount

    def _one_by_one(self, conn: sa.Connection, rows: Sequence[Sequence[Any]]) -> int:
        return driver.executemany(conn, self.words, rows)


class _Insert(Many):
    """`INSERT … VALUES`, hundreds of rows in one statement, on SQLite too.

    Its driver's `executemany` gives up the interpreter's lock and asks for it back at every row, and each time another
    thread that computes keeps it for as long as it may. Few sizes, so that the driver's cache knows all the statements.
    """

    _SIZES = (256, 16, 1)

    def __init__(self, table: sa.Table, columns: Sequence[str], conflict: str) -> None:
        into = f"INSERT INTO {table.name} ({', '.join(columns)})"
        one = f" ({', '.join('?' * len(columns))})"
        self._of_size = {size: f"{into} VALUES{','.join([one] * size)} {conflict}" for size in self._SIZES}
        super().__init__(self._of_size[1], f"{into} SELECT * FROM {_rows(table, columns)} {conflict}")

    def _one_by_one(self, conn: sa.Connection, rows: Sequence[Sequence[Any]]) -> int:
        start = touched = 0
        for size, statement in self._of_size.items():
            while len(rows) - start >= size:
                values = tuple(chain.from_iterable(rows[start : start + size]))
                touched += driver.execute(conn, statement, values).rowcount
                start += size
        return touched


def insert_many(table: sa.Table, *columns: str, conflict: str = "") -> Many:
    """INSERT of these columns, in this order; `conflict`: ON CONFLICT and what follows."""
    return _Insert(table, columns, conflict)


@cache
def update_many(table: sa.Table, columns: tuple[str, ...], keys: tuple[str, ...]) -> Many:
    """UPDATE of these columns in the rows with these keys; values in the order of columns, then keys."""
    return Many(
        f"UPDATE {table.name} SET {', '.join(f'{c} = ?' for c in columns)} WHERE {' AND '.join(f'{k} = ?' for k in keys)}",
        f"UPDATE {table.name} AS t SET {', '.join(f'{c} = given.{c}' for c in columns)}"
        f" FROM {_rows(table, (*columns, *keys))} WHERE {_same(keys)}",
    )


def delete_many(table: sa.Table, keys: Sequence[str], *, event_id: int | None = None) -> Many:
    """DELETE of the rows with these keys; `event_id` as of `Many`."""
    return Many(
        f"DELETE FROM {table.name} WHERE {' AND '.join(f'{k} = ?' for k in keys)}",
        f"DELETE FROM {table.name} AS t USING {_rows(table, keys)} WHERE {_same(keys)}",
        event_id=event_id,
    )


def as_list(conn: sa.Connection, values: Sequence[Any]) -> str:
    """A list as a parameter of a `Statement`; see `Array`."""
    return _array(values) if is_postgresql(conn) else json.dumps(values)


def _rows(table: sa.Table, columns: Sequence[str]) -> str:
    types = (table.c[name].type.compile(_DIALECT).partition(" COLLATE ")[0] for name in columns)
    arrays = (f"CAST(? AS {kind}[])" for kind in types)
    return f"unnest({', '.join(arrays)}) AS given ({', '.join(columns)})"


def _same(keys: Sequence[str]) -> str:
    return " AND ".join(f"t.{key} = given.{key}" for key in keys)


def _array(values: Sequence[Any]) -> str:
    """PostgreSQL's text for an array. (Its driver would look at each element's type first, which takes ten times as long.)"""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case bytes():
            return f'"\\\\x{value.hex()}"'
        case _:
            return str(value)
