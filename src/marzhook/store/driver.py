"""Straight to SQLite's driver, for the statements of every call.

Through SQLAlchemy, even as plain text, each costs five to ten times what SQLite takes for a row by its key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

Row = Mapping[str, Any] | sa.RowMapping
"""By the names of the columns; from here or from a Core statement."""


def execute(conn: sa.Connection, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
    """One statement in the transaction of `conn`; rows are tuples. Raises as SQLAlchemy does."""
    try:
        return _driver(conn).execute(sql, values)
    except sqlite3.Error as error:
        raise _as_sqlalchemy(sql, error) from error


def first(conn: sa.Connection, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> dict[str, Any] | None:
    """The first row by the names of its columns, None where there is none. As it is stored: a boolean is 0 or 1."""
    cursor = execute(conn, sql, values)
    row = cursor.fetchone()
    return None if row is None else {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def executemany(conn: sa.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """One statement for each of the rows. Raises as SQLAlchemy does."""
    try:
        _driver(conn).executemany(sql, rows)
    except sqlite3.Error as error:
        raise _as_sqlalchemy(sql, error) from error


def _driver(conn: sa.Connection) -> sqlite3.Connection:
    driver: sqlite3.Connection = conn.connection.driver_connection  # type: ignore[assignment]
    return driver


def _as_sqlalchemy(sql: str, error: sqlite3.Error) -> BaseException:
    # Without the values: they may be secrets.
    return sa.exc.DBAPIError.instance(sql, None, error, sqlite3.Error, hide_parameters=True)
