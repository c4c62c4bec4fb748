"""Writes events to a database of somebody else's: users' states and what happened, each event once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.pool import NullPool

from marzhook.event import USER_CREATED
from marzhook.request import BAD_DATA, Rows

_PACKAGES: Final = {"psycopg": "'marzhook[postgres]'", "MySQLdb": "mysqlclient"}
"""What to install where it has another name than the module that is missing."""


_RAISED: Final = "P0001"
"""PostgreSQL's RAISE EXCEPTION."""
_REFUSED: Final = ((1644,), (3819,), (4025,))
"""What MySQL's and MariaDB's drivers call operational: SIGNAL, and their two numbers for a CHECK."""
_TEXT: Final = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
# Whatever such a server has for its default (Latin-1, MyISAM; names in which `Ann` is `ann`).
_MYSQL: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


class OtherColumnsError(Exception):
    """A table is there already, made by somebody else: its name, and a column that it lacks."""

    def __init__(self, table: str, column: str) -> None:
        super().__init__(table, column)
        self.table, self.column = table, column


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
        sa.Column("note", _TEXT),
        sa.Column("deleted", sa.Boolean, nullable=False),
        # The event that it is as of, and its time in Unix seconds.
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        **_MYSQL,
    )  # fmt: skip
    events = sa.Table(
        f"{prefix}events", metadata,
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("username", sa.String(128), nullable=False),
        sa.Column("enqueued_at", sa.Double, nullable=False),
        sa.Column("detail", _TEXT),
        **_MYSQL,
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
                _bring_up_to_date(conn, users, [row for row in new if row["user"] is not None])
    except (ImportError, sa.exc.SQLAlchemyError, UnicodeError) as error:
        # The event's own fault: the others of its request are sent without it.
        return (BAD_DATA, None, in_words(error)) if _of_the_data(error) else (1, "other", in_words(error))
    return 0, None, ""


def _of_the_data(error: Exception) -> bool:
    """Whether it is these rows that the database refuses, be it by a rule of its owner's: a CHECK, or a trigger."""
    if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError | UnicodeError):
        return True
    original = getattr(error, "orig", None)
    return getattr(original, "sqlstate", None) == _RAISED or getattr(original, "args", ())[:1] in _REFUSED


def trial(url: str, prefix: str, timeout: float) -> str:
    """Write an event, making the tables where they are missing, and take all of it back. Returns how far one got, in words.

    Raises OtherColumnsError, and what `in_words` takes.
    """
    with _transaction(url, timeout) as conn:
        if conn.dialect.name == "sqlite":
            # Python's driver begins a transaction before it writes rows, but not before it makes tables.
            conn.exec_driver_sql("BEGIN IMMEDIATE")
        metadata, users, events = tables(prefix)
        missing = []
        for table in (users, events):
            if not sa.inspect(conn).has_table(table.name):
                missing.append(table.name)
                continue
            there = {column["name"].lower() for column in sa.inspect(conn).get_columns(table.name)}
            for column in table.c:
                if column.name not in there:
                    raise OtherColumnsError(table.name, column.name)
        if missing and conn.dialect.name not in ("sqlite", "postgresql"):
            # Elsewhere a table that was made stays, whatever becomes of its transaction.
            return f"it answers; the first event makes {' and '.join(missing)}"
        metadata.create_all(conn)
        row = {"id": "msg_check_0", "action": "marzhook_test", "username": "marzhook_test", "enqueued_at": 0.0}
        conn.execute(sa.insert(events), [{**row, "detail": None}])
        _bring_up_to_date(conn, users, [{**row, "number": 0, "user": {"deleted": False}}])
        conn.rollback()
    return f"it answers; {' and '.join(missing)} can be made" if missing else "it answers; its tables can be written"


def in_words(error: ImportError | sa.exc.SQLAlchemyError | UnicodeError) -> str:
    """What came in between. Not the error's text: that has the statement, the values, and with some drivers the URL in it."""
    if isinstance(error, ImportError):
        module = (error.name or "psycopg").partition(".")[0]
        return f"the database's driver is not installed here; type: pip install {_PACKAGES.get(module, module)}"
    if isinstance(error, sa.exc.NoSuchModuleError | sa.exc.ArgumentError):
        return "SQLAlchemy does not understand this URL, or its dialect is not installed here"
    original = getattr(error, "orig", None)
    return f"the database refused it: {type(original or error).__name__}"


@contextmanager
def _transaction(url: str, timeout: float) -> Iterator[sa.Connection]:
    found = sa.make_url(url)
    if found.drivername == "postgresql":
        found = found.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {}
    if found.get_backend_name() == "sqlite":
        options = {"timeout": timeout}
    elif found.get_driver_name() == "psycopg":
        options = {"connect_timeout": max(1, int(timeout))}
    elif found.get_driver_name() in ("pymysql", "mysqldb"):
        options = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), max(1, int(timeout)))
    # No pool: a request is many events, and a connection that is opened anew is never one that died meanwhile.
    engine = sa.create_engine(found, poolclass=NullPool, connect_args=options)
    with engine.begin() as conn:
        if engine.dialect.name == "postgresql":
            # Not as an option of the connection: poolers refuse that, and the URL may have its own.
            conn.exec_driver_sql(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
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
            # Who is created anew under a name that was used before is somebody else.
            kept = blank if state is None or row["action"] == USER_CREATED else state
            after[row["username"]] = {**kept, **row["user"], **told}
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
