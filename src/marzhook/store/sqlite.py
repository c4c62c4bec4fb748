"""One SQLite file: WAL, each commit on the disk itself, one process that delivers from it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from marzhook.errors import AlreadyRunningError, DatabaseError, StoreBusyError
from marzhook.store import driver
from marzhook.store.database import BUSY_TIMEOUT, FIRST_WAIT, Database, Transaction
from marzhook.store.sharing import ChangeWatch
from marzhook.store.vault import OPTION, Vault


class SQLiteDatabase(Database):
    kind = "SQLite"
    one_writer = True

    def __init__(self, url: str, *, busy_timeout: float = BUSY_TIMEOUT, secret_keys: Sequence[str] = ()) -> None:
        self.path = _path_of(url)
        key_file = self.path.with_name(self.path.name + ".key")
        super().__init__(str(self.path), Vault(str(self.path), secret_keys, key_file))
        # SQLite has one writer at a time. Threads of this process queue here, where waiting costs nothing, and not in
        # SQLite's busy handler, which sleeps and tries again and is neither prompt nor fair.
        self._writer = threading.Lock()
        self._busy_timeout = busy_timeout
        self._lock_file: int | None = None
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            connect_args={"timeout": busy_timeout, "check_same_thread": False},
            # A failed statement is logged, and its parameters may be secrets.
            hide_parameters=True,
            pool_size=20,
            max_overflow=30,
            # The one used last again: each has a cache of its own, of up to 32 MB.
            pool_use_lifo=True,
            json_serializer=json.dumps,
            execution_options={OPTION: self.vault},
        )
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", _begin)
        self._write_engine, self._lazy_engine = (
            self._engine.execution_options(marzhook_begin="BEGIN IMMEDIATE", marzhook_pragmas=pragmas)
            for pragmas in (_DURABLE, _LAZY)
        )

    def exists(self) -> bool:
        return self.path.exists()

    def claim(self) -> None:
        self._check_folder()
        path = self._lock_path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DatabaseError(f"cannot create {path}: {error.strerror}; make its folder writable") from None
        try:
            _lock(fd)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(fd)
            raise AlreadyRunningError(
                f"{self.path} is held by {holder}; stop that one first, or set MARZHOOK_DATABASE_URL to another file"
            ) from None
        except OSError as error:
            os.close(fd)
            raise DatabaseError(f"cannot lock {path}: {error.strerror}; keep the database on a local disk") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"marzhook run, process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock_file = fd

    def holder(self) -> str | None:
        try:
            fd = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # no service has ever run here
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
        else:
            return None
        finally:
            os.close(fd)

    def watch(self) -> ChangeWatch:
        return _FileWatch(self.path)

    def checkpoint(self, keep: int) -> bool:
        """Waits for no reader, and makes nobody wait for the copying."""
        log_file = self.path.with_name(self.path.name + "-wal")
        # A connection of its own, without patience: with it, emptying would shut out writers until the last reader is done.
        with closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as connection:
            busy, frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if busy or copied < frames:
                return False
            if not log_file.exists() or log_file.stat().st_size <= keep:
                return True
            # All but the newest commits are copied, so this is short; and it takes its turn among the writers.
            with self._writer:
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        self._engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def version(self) -> str:
        return sqlite3.sqlite_version

    # -- in SQLite's way

    def _reading(self, by_key: bool, own: bool) -> AbstractContextManager[sa.Connection]:
        return self._engine.begin()

    @contextmanager
    def _writing(self, durable: bool, brief: bool) -> Iterator[Transaction]:
        with self._turn(), (self._write_engine if durable else self._lazy_engine).begin() as conn:
            yield Transaction(conn)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """This process's next write. Who queues has no more patience than who waits for another process: while that one
        holds the file, the queue must not grow longer than it gets shorter."""
        if not self._writer.acquire(timeout=self._busy_timeout):
            raise StoreBusyError(f"{self.path} is busy, others wait to write too; nothing was changed, try again")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            explained = _explanation(self.path, error)
            if explained is None:
                raise
            raise explained from error

    def _prepare(self) -> None:
        """The file holds secrets: only its owner may read it, from its first byte on."""
        self._check_folder()
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseError(
                f"cannot write {self.path}: {error.strerror}; check its owner and permissions"
            ) from None

    def _found_ours(self) -> None:
        # So that retention can give space back. It counts for a file without pages only: an older one takes a VACUUM.
        until = time.monotonic() + self._busy_timeout
        while True:
            try:
                self._outside_transaction("PRAGMA auto_vacuum=INCREMENTAL", "PRAGMA journal_mode=WAL")
                return
            except StoreBusyError:
                # Who changes the mode while another one writes (the same, say) is refused at once, whatever his patience.
                if time.monotonic() > until:
                    raise
            time.sleep(FIRST_WAIT)

    def _forget_what_was_plain(self) -> None:
        # It is gone from the file; the log still has it until that is written back and emptied.
        self._outside_transaction("PRAGMA wal_checkpoint(TRUNCATE)")

    # -- parts of the above

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _check_folder(self) -> None:
        if not self.path.parent.is_dir():
            raise DatabaseError(
                f"cannot create {self.path}: the folder {self.path.parent} does not exist; create it first"
            )

    def _outside_transaction(self, *statements: str) -> None:
        with self._explained(), self._engine.connect().execution_options(marzhook_begin=None) as conn:
            for statement in statements:
                conn.exec_driver_sql(statement)


class _FileWatch(ChangeWatch):
    """Through `PRAGMA data_version` (about 5 µs a look), on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._cursor = self._connection.cursor()
        self._seen = self._version()

    def changed(self) -> bool:
        version = self._version()
        changed = version != self._seen
        self._seen = version
        return changed

    def close(self) -> None:
        self._connection.close()

    def _version(self) -> int:
        return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])


def _lock(fd: int) -> None:
    """Take the lock. Raises BlockingIOError when somebody keeps it.

    Who only asks who holds it (`holder`) has it for a moment: that must not stop a start, hence a few tries.
    """
    for _ in range(10):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _path_of(url: str) -> Path:
    database = make_url(url).database
    if not database or database == ":memory:":
        raise DatabaseError("a database in memory would lose its events; name a file: sqlite:///marzhook.db")
    # Links resolved: the lock is beside the file itself, by whatever name that is reached.
    return Path(database).resolve()


# Where it need not be durable, the log is not copied into the file either.
_DURABLE = ("PRAGMA synchronous=FULL", "PRAGMA wal_autocheckpoint=1000")
_LAZY = ("PRAGMA synchronous=NORMAL", "PRAGMA wal_autocheckpoint=0")


def _prepare(connection: Any, _record: object) -> None:
    # isolation_level None: the driver begins no transactions of its own; `_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        # FULL: a commit is on the disk itself before it is acknowledged, also when the power fails.
        "synchronous=FULL", "foreign_keys=ON", "cache_size=-32768", "temp_store=MEMORY",
    ):  # fmt: skip
        cursor.execute("PRAGMA " + pragma)
    cursor.close()


def _begin(conn: sa.Connection) -> None:
    # Writers take the lock at once: one that reads first and writes later can find that its view is out of date, and
    # SQLite then refuses without waiting.
    options = conn.get_execution_options()
    statement = options.get("marzhook_begin", "BEGIN")
    # Each time: they stay with the connection, which is another's later.
    for pragma in options.get("marzhook_pragmas", ()):
        driver.execute(conn, pragma)
    if statement is not None:
        driver.execute(conn, statement)


def _explanation(path: Path, error: sa.exc.DBAPIError) -> Exception | None:
    text = str(error.orig)
    operational = isinstance(error, sa.exc.OperationalError)
    if operational:
        if "locked" in text or "busy" in text:
            return StoreBusyError(f"{path} is locked by another program; nothing was changed, try again")
        if "disk is full" in text or "disk I/O" in text:
            return StoreBusyError(
                f"{path} could not be written ({text}); free some space, nothing was changed", code="disk_full"
            )
        if "readonly" in text or "unable to open" in text:
            return DatabaseError(f"{path} cannot be written ({text}); check its owner and permissions")
    if "not a database" in text or "malformed" in text:
        return DatabaseError(f"{path} is not a usable database ({text}); move it away or restore a backup")
    if operational:
        return DatabaseError(f"{path} cannot be used as it is ({text}); restore a backup")
    return None
