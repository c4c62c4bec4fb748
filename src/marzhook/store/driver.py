"""Straight to the database's driver, for the statements of every call.

Through SQLAlchemy, even as plain text, each costs five to ten times what SQLite takes for a row by its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import sqlalchemy as sa

Row = Mapping[str, Any] | sa.RowMapping
"""By the names of the columns; from here or from a Core statement."""


class Cursor(Protocol):
    """What both drivers give back; rows are tuples."""

    @property
    def description(self) -> Any: ...
    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Statement:
    """A statement in the words of both databases, its parameters written `?` or `:name` in both."""

    def __init__(self, sqlite: str, postgresql: str | None = None) -> None:
        self.sqlite, self.postgresql = sqlite, sqlite if postgresql is None else postgresql


def is_postgresql(conn: sa.Connection) -> bool:
    return conn.dialect.name == "postgresql"


def execute(conn: sa.Connection, statement: str | Statement, values: Sequence[Any] | Mapping[str, Any] = ()) -> Cursor:
    """One statement in the transaction of `conn`. Raises as SQLAlchemy does."""
    sql = _words(conn, statement)
    driver: Any = conn.connection.driver_connection
    try:
        found: Cursor = driver.execute(sql, values)
    except conn.dialect.loaded_dbapi.Error as error:
        raise _as_sqlalchemy(conn, driver, sql, error) from error
    return found


def first(
    conn: sa.Connection, statement: str | Statement, values: Sequence[Any] | Mapping[str, Any] = ()
) -> dict[str, Any] | None:
    """The first row by the names of its columns, None where there is none. As it is stored: on SQLite, a boolean is 0 or 1."""
    cursor = execute(conn, statement, values)
    row = cursor.fetchone()
    return None if row is None else {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def executemany(conn: sa.Connection, statement: str | Statement, rows: Sequence[Sequence[Any]]) -> int:
    """One statement for each of the rows; returns how many rows it touched. Raises as SQLAlchemy does."""
    sql = _words(conn, statement)
    driver: Any = conn.connection.driver_connection
    cursor = driver.cursor()
    try:
        cursor.executemany(sql, rows)
    except conn.dialect.loaded_dbapi.Error as error:
        raise _as_sqlalchemy(conn, driver, sql, error) from error
    return int(cursor.rowcount)


def _words(conn: sa.Connection, statement: str | Statement) -> str:
    if not is_postgresql(conn):
        return statement if isinstance(statement, str) else statement.sqlite
    return _pyformat(statement if isinstance(statement, str) else statement.postgresql)


@lru_cache(maxsize=1000)
def _pyformat(sql: str) -> str:
    """With psycopg's way to write parameters."""
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", sql.replace("%", "%%").replace("?", "%s"))


def _as_sqlalchemy(conn: sa.Connection, driver: Any, sql: str, error: Any) -> BaseException:
    if conn.dialect.is_disconnect(error, driver, None):
        # SQLAlchemy does not see it happen, and must not give it to anybody else.
        conn.invalidate(error)
    # Without the values: they may be secrets.
    found: BaseException = sa.exc.DBAPIError.instance(
        sql, None, error, conn.dialect.loaded_dbapi.Error, hide_parameters=True
    )
    return found
