"""Sessions of PostgreSQL's that stay one: the caretaker's, which holds a lock, and the watch's, which listens; and the watch
that needs none."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from marzhook.errors import MarzhookError
from marzhook.store.postgresql import CARETAKER, CHANNEL, IDLE, PostgreSQLDatabase
from marzhook.store.sharing import Caretaker, ChangeWatch

SWEEP: Final = 1.0
"""Seconds after which a watch says that something may have changed although nobody told: notifications can be lost."""
_SERVERS_PATIENCE: Final = (
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
    # The last one is for a process that hangs on a machine which answers for it: it says something each second, or each five.
    f" SET tcp_user_timeout = {IDLE * 1000}; SET idle_session_timeout = {IDLE * 1000}"
)


class SessionCaretaker(Caretaker):
    """By a lock of a session of its own: who dies, or loses the session, lets another one be it."""

    def __init__(self, database: PostgreSQLDatabase) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        self._mine = False
        self._asking = threading.Lock()

    def mine(self) -> bool:
        with self._asking:
            try:
                if self._connection is None:
                    self._connection = self._database.connect_directly(application_name="marzhook caretaker")
                    dropped_when_cut_off(self._connection)
                if self._mine:
                    self._connection.execute("SELECT 1")
                else:
                    row = self._connection.execute("SELECT pg_try_advisory_lock(%s, 0)", (CARETAKER,)).fetchone()
                    self._mine = bool(row and row[0])
            except psycopg.Error:
                self._let_go()
            return self._mine

    def close(self) -> None:
        # Who asks a server that does not answer cannot be waited for. The session ends with the process.
        if self._asking.acquire(timeout=1):
            self._let_go()
            self._asking.release()

    def _let_go(self) -> None:
        self._mine = False
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


class Listener(ChangeWatch):
    """LISTEN on a session of its own, and every SWEEP seconds a look without having been told."""

    def __init__(self, database: PostgreSQLDatabase) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        self._next_sweep = 0.0
        with database.explained(database.direct):
            self._listen()

    def changed(self) -> bool:
        try:
            if self._connection is None:
                self._listen()
                return True
            found = len(list(self._connection.notifies(timeout=0))) > 0
        except psycopg.Error:
            # What was told meanwhile is lost: look, and listen anew at the next call.
            self.close()
            found = True
        now = time.monotonic()
        if found or now >= self._next_sweep:
            self._next_sweep = now + SWEEP
            return True
        return False

    def fileno(self) -> int | None:
        return None if self._connection is None else self._connection.fileno()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _listen(self) -> None:
        connection = self._database.connect_directly()
        connection.execute(f"LISTEN {CHANNEL}")
        self._connection = connection
        self._next_sweep = time.monotonic() + SWEEP


class Snapshots(ChangeWatch):
    """Compares which transactions are over: also what nobody was told of is seen, such as what was delivered.

    Those of the server's other databases count too; what only reads has no number, and does not.
    """

    def __init__(self, database: PostgreSQLDatabase) -> None:
        self._database = database
        self._seen = self._snapshot()

    def changed(self) -> bool:
        snapshot = self._snapshot()
        if snapshot is None or snapshot == self._seen:
            return False
        self._seen = snapshot
        return True

    def close(self) -> None:
        """Nothing to do: each look takes one of the connections that all share."""

    def _snapshot(self) -> str | None:
        """None: the database does not say, just now."""
        with suppress(MarzhookError, sa.exc.SQLAlchemyError), self._database.read() as conn:
            return str(conn.exec_driver_sql("SELECT CAST(pg_current_snapshot() AS text)").scalar_one())
        return None


def dropped_when_cut_off(connection: psycopg.Connection[Any]) -> None:
    """Have the server end this session, and with it its locks, when its process was not reached, or has asked for nothing,
    for 25 s."""
    connection.execute(_SERVERS_PATIENCE)
    with suppress(psycopg.errors.InvalidParameterValue):  # on systems that cannot look
        # Also while it works, or waits for a lock.
        connection.execute("SET client_connection_check_interval = 5000")
