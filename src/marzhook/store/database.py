"""The database file: opening, locking, upgrading it, and its two kinds of transaction."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from marzhook import signals
from marzhook.errors import AlreadyRunningError, DatabaseError, DatabaseNewerError, StoreBusyError
from marzhook.store import driver, migrations, schema
from marzhook.store.vault import OPTION, SEALED_META, Vault, vault_of

BUSY_TIMEOUT = 10.0
"""Seconds that a write waits for another process's before it gives up with StoreBusyError."""


@dataclass(slots=True)
class Transaction:
    """A write transaction: `conn` to work on, and what is to happen once it is on disk."""

    conn: sa.Connection
    _after: list[Callable[[], None]] = field(default_factory=list)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back once, after the commit; not at all when it fails."""
        if callback not in self._after:
            self._after.append(callback)

    @contextmanager
    def part(self) -> Iterator[Transaction]:
        """A part that can fail alone: when the block raises, what it wrote is undone; the rest of the transaction stays."""
        part = Transaction(self.conn)
        driver.execute(self.conn, "SAVEPOINT part")
        try:
            yield part
        except BaseException:
            driver.execute(self.conn, "ROLLBACK TO part")
            driver.execute(self.conn, "RELEASE part")
            raise
        driver.execute(self.conn, "RELEASE part")
        for callback in part._after:
            self.after_commit(callback)


class Database:
    """One SQLite file. Thread-safe; `read` and `write` are the only ways in."""

    def __init__(self, url: str, *, busy_timeout: float = BUSY_TIMEOUT, secret_keys: Sequence[str] = ()) -> None:
        """`secret_keys`: MARZHOOK_SECRET_KEY; without any, the key is in a file beside the database."""
        self.path = _path_of(url)
        self.vault = Vault(self.path, secret_keys)
        self._busy_timeout = busy_timeout
        # SQLite has one writer at a time. Threads of this process queue here, where waiting costs nothing, and not in
        # SQLite's busy handler, which sleeps and tries again and is neither prompt nor fair.
        self._writer = threading.Lock()
        self._lock_file: int | None = None
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            connect_args={"timeout": busy_timeout, "check_same_thread": False},
            # A failed statement is logged, and its parameters may be secrets.
            hide_parameters=True,
            pool_size=20,
            max_overflow=30,
            json_serializer=json.dumps,
            execution_options={OPTION: self.vault},
        )
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", _begin)
        self._write_engine, self._lazy_engine = (
            self._engine.execution_options(marzhook_begin="BEGIN IMMEDIATE", marzhook_pragmas=pragmas)
            for pragmas in (_DURABLE, _LAZY)
        )

    # -- transactions

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view of the database; nothing is written."""
        with _explained(self.path), self._engine.begin() as conn:
            yield conn

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Transaction]:
        """All or nothing, on disk when the block has ended. Raises StoreBusyError when it could not be written.

        `durable` False: on disk with the next durable one, and the log is not copied into the file. So the others do not
        wait for the disk; a power failure in between undoes it, as a whole.
        """
        with _explained(self.path):
            with self._turn(), (self._write_engine if durable else self._lazy_engine).begin() as conn:
                tx = Transaction(conn)
                yield tx
            for callback in tx._after:
                callback()

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

    # -- start and stop

    def claim(self) -> None:
        """Become the one process that delivers from this file. The lock dies with the process, so nothing is left to mend.

        Raises AlreadyRunningError, naming the holder.
        """
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
        """Which process delivers from this file just now, in words; None: nobody does."""
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

    def upgrade(self) -> None:
        """Create the database or bring it to this version's schema, and find the key to its secrets.

        Raises DatabaseError, DatabaseNewerError.
        """
        self._create_private()
        known = migrations.revisions()
        with self.read() as conn:
            tables = sa.inspect(conn).get_table_names()
            # Other programs use Alembic too, the panel among them: its revisions are not ours.
            if tables and not {"alembic_version", "meta", "pending"} <= set(tables):
                raise DatabaseError(
                    f"{self.path} is a database of another program; set MARZHOOK_DATABASE_URL to another file"
                )
            current = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if tables else None
        if current is not None and current not in known:
            raise DatabaseNewerError(
                f"{self.path} was made by a newer Marzhook (its schema is {current}, this version knows up to "
                f"{known[-1]}); install that version again, or restore a backup"
            )
        self._use_wal()
        if current == known[-1] and self._unlocked():
            return
        with self.write() as tx:
            migrations.upgrade(tx.conn)
            tx.conn.execute(
                sa.text("INSERT OR IGNORE INTO meta (key, value) VALUES ('instance', :i), ('token_key', :k)"),
                {"i": secrets.token_hex(4), "k": secrets.token_hex(32)},
            )
            sealed = self.vault.found(tx.conn)
            signals.emit("migrate.before_commit")
        if sealed:
            # What was plain is gone from the file; the log still has it until that is written back and emptied.
            self._outside_transaction("PRAGMA wal_checkpoint(TRUNCATE)")
        self._unlocked()

    def meta(self, conn: sa.Connection, key: str) -> str | None:
        """One fact of the table `meta`."""
        value: str | None = conn.execute(sa.select(schema.meta.c.value).where(schema.meta.c.key == key)).scalar()
        return vault_of(conn).reveal(value) if value is not None and key in SEALED_META else value

    def set_meta(self, tx: Transaction, key: str, value: str) -> None:
        tx.conn.execute(
            sa.text(
                "INSERT INTO meta (key, value) VALUES (:k, :v) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            ),
            {"k": key, "v": value},
        )

    def checkpoint(self, keep: int) -> bool:
        """Copy the log into the file, and empty it where it is longer than `keep` bytes; return whether that could be done.

        Waits for no reader, and makes nobody wait for the copying.
        """
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
        """Close all connections and let go of the file."""
        self._engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _create_private(self) -> None:
        """The file holds secrets: only its owner may read it, from its first byte on."""
        self._check_folder()
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseError(
                f"cannot write {self.path}: {error.strerror}; check its owner and permissions"
            ) from None

    def _check_folder(self) -> None:
        if not self.path.parent.is_dir():
            raise DatabaseError(
                f"cannot create {self.path}: the folder {self.path.parent} does not exist; create it first"
            )

    def _use_wal(self) -> None:
        """WAL is a property of the file: set once the file is known to be ours, for another program's is not to be changed."""
        # So that retention can give space back. It counts for a file without pages only: an older one takes a VACUUM.
        self._outside_transaction("PRAGMA auto_vacuum=INCREMENTAL", "PRAGMA journal_mode=WAL")

    def _outside_transaction(self, *statements: str) -> None:
        with _explained(self.path), self._engine.connect().execution_options(marzhook_begin=None) as conn:
            for statement in statements:
                conn.exec_driver_sql(statement)

    def _unlocked(self) -> bool:
        with self.read() as conn:
            return self.vault.unlock(conn)


class ChangeWatch:
    """Notices commits of other connections, also of other processes, through `PRAGMA data_version` (about 5 µs a look).

    Holds one connection of its own; use it from one thread.
    """

    def __init__(self, database: Database) -> None:
        self._connection = sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)
        self._cursor = self._connection.cursor()
        self._seen = self._version()

    def changed(self) -> bool:
        """Whether anything was committed since the last call."""
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


_DURABLE = ("PRAGMA synchronous=FULL", "PRAGMA wal_autocheckpoint=1000")
_LAZY = ("PRAGMA synchronous=NORMAL", "PRAGMA wal_autocheckpoint=0")


def _prepare(connection: Any, _record: object) -> None:
    # isolation_level None: the driver begins no transactions of its own; `_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        # FULL: a commit is on the disk itself before it is acknowledged, also when the power fails.
        "synchronous=FULL", "foreign_keys=ON", "cache_size=-32768", "temp_store=MEMORY",
        # 16 MiB of log, as much as the upkeep leaves: the longer it may become, the fewer pages are copied twice.
        "wal_autocheckpoint=4000",
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
        conn.connection.execute(pragma)
    if statement is not None:
        driver.execute(conn, statement)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's own errors into ours, which say what to do."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        text = str(error.orig)
        if isinstance(error, sa.exc.OperationalError):
            if "locked" in text or "busy" in text:
                raise StoreBusyError(f"{path} is locked by another program; nothing was changed, try again") from error
            if "disk is full" in text or "disk I/O" in text:
                raise StoreBusyError(
                    f"{path} could not be written ({text}); free some space, nothing was changed", code="disk_full"
                ) from error
            if "readonly" in text or "unable to open" in text:
                raise DatabaseError(f"{path} cannot be written ({text}); check its owner and permissions") from error
        if "not a database" in text or "malformed" in text:
            raise DatabaseError(
                f"{path} is not a usable database ({text}); move it away or restore a backup"
            ) from error
        if isinstance(error, sa.exc.OperationalError):
            raise DatabaseError(f"{path} cannot be used as it is ({text}); restore a backup") from error
        raise
