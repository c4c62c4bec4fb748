"""Remembers handled events in a database, in the transaction in which the handlers write: effects exactly once.

    select the mark -- there --> duplicate
          |
          +-- begin, insert the mark, handlers, commit --> done
                              |           |
                              |           +-- one raises --> rollback: neither mark nor effects
                              +-- somebody else inserted it meanwhile --> duplicate

Handlers write through `event.connection` and never commit; what they do elsewhere (a message sent, another database) can
happen once more after a crash.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

log = logging.getLogger(__name__)

TABLE: Final = "marzhook_received"
KEEP: Final = 30 * 86400.0
"""Seconds for which marks are kept: Marzhook tries for three days, and keeps what it delivered for 30."""
PRUNE_EVERY: Final = 3600.0


class DBAPI:
    """Any DB-API 2.0 database (PEP 249): psycopg, PyMySQL, `engine.raw_connection` of SQLAlchemy …

    `connect()` gives a connection that is not in autocommit mode, `release(connection)` takes it back (default: closes it),
    one for each request. The table is made at the first use where it is missing. `paramstyle` is the driver module's,
    and needed only where a wrapper hides it. Marks older than `keep` seconds are removed once an hour.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        release: Callable[[Any], object] | None = None,
        table: str = TABLE,
        paramstyle: str | None = None,
        keep: float = KEEP,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", table, re.ASCII):
            raise ValueError(f"{table!r} is no name for a table")
        self._connect = connect
        self._release = release or (lambda connection: connection.close())
        self._table = table
        self._paramstyle = paramstyle
        self._keep = keep
        self._clock = clock
        self._lock = threading.Lock()
        self._prepared = False
        self._prune_at = 0.0

    @contextmanager
    def session(self) -> Iterator[DatabaseSession]:
        connection = self._connect()
        try:
            yield self._opened(connection)
        finally:
            self._release(connection)

    def _opened(self, connection: Any) -> DatabaseSession:
        if _autocommits(connection):
            raise RuntimeError(
                "the connection is in autocommit mode, so an event and its mark cannot be one transaction"
            )
        session = DatabaseSession(self, connection)
        with self._lock:
            if not self._prepared:
                session.make_table()
                self._prepared = True
            now = self._clock()
            if now >= self._prune_at:
                self._prune_at = now + PRUNE_EVERY
                session.prune(now - self._keep)
        return session

    def statement(self, connection: Any, text: str) -> str:
        """`text` with {table} and {0}, {1} as this driver writes them."""
        if self._paramstyle is None:
            self._paramstyle = _paramstyle(type(connection).__module__)
            if self._paramstyle is None:
                raise RuntimeError(
                    "this connection does not tell its driver's paramstyle: give it as DBAPI(paramstyle=…)"
                )
        style = self._paramstyle
        places = ("?", "?") if style == "qmark" else ("%s", "%s") if style in ("format", "pyformat") else (":1", ":2")
        return text.format(*places, table=self._table)

    # What sqlite3 wants otherwise.

    def begin(self, connection: Any) -> None:
        """Most drivers begin by themselves; sqlite3 would begin without the lock, or not at all."""
        # MySQL's own driver has `in_transaction`, too; `executescript` is SQLite's alone, also behind a wrapper.
        if hasattr(connection, "executescript") and getattr(connection, "in_transaction", None) is False:
            connection.execute("BEGIN IMMEDIATE")

    def commit(self, connection: Any) -> None:
        connection.commit()

    def rollback(self, connection: Any) -> None:
        connection.rollback()


class DatabaseSession:
    """One request's connection; each of its events is a transaction."""

    def __init__(self, database: DBAPI, connection: Any) -> None:
        self._database = database
        self.connection = connection

    @contextmanager
    def once(self, ids: Sequence[str]) -> Iterator[bool]:
        if ids and self._marked(ids):
            yield False
            return
        try:
            self._database.begin(self.connection)
            first = self._mark(ids)
            yield first
            if first:
                self._check(ids)
                self._database.commit(self.connection)
        except BaseException:
            self._undo()
            raise

    def _marked(self, ids: Sequence[str]) -> bool:
        found = any(map(self._is_there, ids))
        # A read is a transaction too.
        self._database.rollback(self.connection)
        return found

    def _check(self, ids: Sequence[str]) -> None:
        """Raise where a commit would keep nothing, and not say so: a handler caught an error that took the transaction along.
        PostgreSQL then refuses every statement; elsewhere (a deadlock in MySQL) the mark is gone."""
        if not self._is_there(ids[0] if ids else "") and ids:
            raise RuntimeError("the transaction was rolled back while the handlers ran; within a SAVEPOINT it goes on")

    def _is_there(self, event_id: str) -> bool:
        return bool(self._execute("SELECT id FROM {table} WHERE id = {0}", (event_id,), fetch=True))

    def _mark(self, ids: Sequence[str]) -> bool:
        now = self._database._clock()
        try:
            for one in ids:
                self._execute("INSERT INTO {table} (id, received_at) VALUES ({0}, {1})", (one, now))
        except Exception as error:
            if not _is_integrity_error(error):
                raise
            # Another one was faster, and has committed: the insert waited for that.
            self._undo()
            return False
        return True

    def make_table(self) -> None:
        """Make the table where there is none. It may be that another process does so at the same moment."""
        try:
            self._execute("SELECT id FROM {table} WHERE 1 = 0", fetch=True)
        except Exception:
            self._undo()
            try:
                self._database.begin(self.connection)
                self._execute(
                    "CREATE TABLE {table} (id VARCHAR(255) NOT NULL PRIMARY KEY, received_at DOUBLE PRECISION NOT NULL)"
                )
                self._database.commit(self.connection)
            except Exception:
                self._undo()
                self._execute("SELECT id FROM {table} WHERE 1 = 0", fetch=True)
        self._database.rollback(self.connection)

    def prune(self, before: float) -> None:
        """Remove old marks; a failure waits for the next hour."""
        try:
            self._database.begin(self.connection)
            self._execute("DELETE FROM {table} WHERE received_at < {0}", (before,))
            self._database.commit(self.connection)
        except Exception:
            log.warning("old marks could not be removed", exc_info=True)
            self._undo()

    def _execute(self, text: str, values: Sequence[object] = (), *, fetch: bool = False) -> list[Any]:
        cursor = self.connection.cursor()
        try:
            cursor.execute(self._database.statement(self.connection, text), tuple(values))
            return list(cursor.fetchall()) if fetch else []
        finally:
            cursor.close()

    def _undo(self) -> None:
        try:
            self._database.rollback(self.connection)
        except Exception:
            # A connection that is lost has rolled back by itself; the first error says more.
            log.debug("the rollback failed", exc_info=True)


class SQLite(DBAPI):
    """A SQLite file, made where it is missing. `event.connection` is a `sqlite3.Connection` to it whose commits are the
    receiver's; tables of your own belong into the same file, where what happens to them happens once."""

    def __init__(
        self,
        path: str | Path,
        *,
        table: str = TABLE,
        keep: float = KEEP,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout`: seconds to wait while another one writes; Marzhook waits 15 for an answer."""
        super().__init__(self._take, release=self._give_back, table=table, paramstyle="qmark", keep=keep, clock=clock)
        self._path = str(path)
        self._timeout = timeout
        # Kept, because SQLite tidies its files up when the last one closes, which would be at every request. By process,
        # because a connection must not be used across a fork, not even to close it.
        self._idle: dict[int, list[_Connection]] = {}

    def close(self) -> None:
        """Close what is idle; a request after that opens anew."""
        idle = self._idle.pop(os.getpid(), [])
        while idle:
            idle.pop().shut()

    def _take(self) -> _Connection:
        try:
            return self._idle[os.getpid()].pop()
        except LookupError:
            # One thread at a time uses it, but not always the same one.
            connection = sqlite3.connect(
                self._path, timeout=self._timeout, check_same_thread=False, factory=_Connection, isolation_level=None
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            return connection

    def _give_back(self, connection: _Connection) -> None:
        self._idle.setdefault(os.getpid(), []).append(connection)

    def begin(self, connection: _Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def commit(self, connection: _Connection) -> None:
        connection.execute("COMMIT")

    def rollback(self, connection: _Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class _Connection(sqlite3.Connection):
    """Refuses what would end the transaction: it belongs to the receiver."""

    def commit(self) -> None:
        raise RuntimeError("the receiver commits, when all handlers of the event have ended; raise to roll back")

    rollback = close = commit

    def executescript(self, *_: Any) -> Any:
        raise RuntimeError("executescript() commits first; the receiver's transaction would end. Use execute()")

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        """`with connection:` in a handler is no transaction of its own."""
        return False

    def shut(self) -> None:
        super().close()


def _autocommits(connection: Any) -> bool:
    if isinstance(connection, sqlite3.Connection):
        # Before 3.12 there is no such mode; isolation_level None leaves BEGIN to us, and we say it.
        return getattr(connection, "autocommit", None) is True
    ask = getattr(connection, "get_autocommit", None)
    return bool(ask() if callable(ask) else getattr(connection, "autocommit", False) is True)


def _paramstyle(module: str) -> str | None:
    """That of the driver to which the module belongs: it may be a package's part, such as `mysql.connector`."""
    while module:
        found = getattr(sys.modules.get(module), "paramstyle", None)
        if isinstance(found, str):
            return found
        module = module.rpartition(".")[0]
    return None


def _is_integrity_error(error: Exception) -> bool:
    """By name, as PEP 249 has it: each driver has a class of its own."""
    return any(base.__name__ == "IntegrityError" for base in type(error).__mro__)
