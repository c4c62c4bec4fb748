"""Writes events to a database of somebody else's: users' states and what happened, each event once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from marzhook.request import Rows


def tables(prefix: str) -> tuple[sa.MetaData, sa.Table, sa.Table]:
    """`users` and `events`, as every database that SQLAlchemy knows has them."""
    metadata = sa.MetaData()
    users = sa.Table(
        f"{prefix}users", metadata,
        sa.Column("username", sa.String(128), primary_key=True),
        sa.Column("status", sa.String(32)),
        sa.Column("used_traffic", sa.BigInteger),
        sa.Column("data_limit", sa.BigInteger),
        sa.Column("expire", sa.BigInteger),
        sa.Column("admin", sa.String(128)),
        sa.Column("note", sa.Text),
        sa.Column("deleted", sa.Boolean, nullable=False),
        # The event that it is as of, and its time in Unix seconds.
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )  # fmt: skip
    events = sa.Table(
        f"{prefix}events", metadata,
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("enqueued_at", sa.Double, nullable=False),
        sa.Column("detail", sa.Text),
    )  # fmt: skip
    return metadata, users, events


def write(work: Rows, timeout: float) -> tuple[int, str | None, str]:
    """Status, error and its message."""
    rows = [json.loads(row) for row in work.rows]
    try:
        with _transaction(work.url, timeout) as conn:
            metadata, users, events = tables(work.prefix)
            metadata.create_all(conn)
            ids = [row["id"] for row in rows]
            known = set(conn.execute(sa.select(events.c.id).where(events.c.id.in_(ids))).scalars())
            new = [row for row in rows if row["id"] not in known]
            if new:
                conn.execute(sa.insert(events), [{c.name: row[c.name] for c in events.c} for row in new])
                _bring_up_to_date(conn, users, new)
    except ModuleNotFoundError as error:
        return 1, "other", f"the database's driver is not installed here; type: pip install {error.name}"
    except (sa.exc.NoSuchModuleError, sa.exc.ArgumentError):
        return 1, "other", "SQLAlchemy does not understand this URL, or its dialect is not installed here"
    except sa.exc.SQLAlchemyError as error:
        # Not its text: that has the statement, the values, and with some drivers the URL in it.
        original = getattr(error, "orig", None)
        return 1, "other", f"the database refused it: {type(original or error).__name__}"
    return 0, None, ""


@contextmanager
def _transaction(url: str, timeout: float) -> Iterator[sa.Connection]:
    found = sa.make_url(url)
    if found.drivername == "postgresql":
        found = found.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {}
    if found.get_backend_name() == "sqlite":
        options = {"timeout": timeout}
    elif found.get_driver_name() == "psycopg":
        milliseconds = int(timeout * 1000)
        options = {"connect_timeout": max(1, int(timeout)), "options": f"-c statement_timeout={milliseconds}"}
    # No pool: a request is many events, and a connection that is opened anew is never one that died meanwhile.
    engine = sa.create_engine(found, poolclass=NullPool, connect_args=options)
    with engine.begin() as conn:
        yield conn


def _bring_up_to_date(conn: sa.Connection, users: sa.Table, rows: list[dict[str, Any]]) -> None:
    names = sorted({row["username"] for row in rows})
    query = sa.select(users).where(users.c.username.in_(names)).with_for_update()
    before = {row["username"]: dict(row) for row in conn.execute(query).mappings()}
    after: dict[str, dict[str, Any]] = {}
    for row in rows:
        state = after.get(row["username"]) or before.get(row["username"])
        if state is None or _newer(row, state):
            blank = {column.name: None for column in users.c}
            told = {"username": row["username"], "event_id": row["id"], "updated_at": row["enqueued_at"]}
            after[row["username"]] = {**(state or blank), **row["user"], **told}
    added = [state for name, state in after.items() if name not in before]
    if added:
        conn.execute(sa.insert(users), added)
    for name, state in after.items():
        if name in before:
            conn.execute(sa.update(users).where(users.c.username == name).values(state))


def _newer(row: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Events of one database are in the order of their numbers; those of two, in that of their times."""
    instance, _, number = str(state["event_id"]).rpartition("_")
    if row["id"].rpartition("_")[0] == instance and number.isdigit():
        return bool(row["number"] > int(number))
    return bool(row["enqueued_at"] >= state["updated_at"])
