"""The database: opening, upgrading it, and its two kinds of transaction. What SQLite and PostgreSQL have in common."""

from __future__ import annotations

import logging
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Self, TypeVar

import sqlalchemy as sa

from marzhook import signals
from marzhook.errors import DatabaseError, DatabaseNewerError, OutcomeUnknownError, StoreBusyError, TransientError
from marzhook.event import SHARDS
from marzhook.store import driver, migrations, schema
from marzhook.store.sharing import Caretaker, ChangeWatch, Horizon, ShardHolder
from marzhook.store.vault import SEALED_META, Vault, vault_of
from marzhook.store.workers import Worker

BUSY_TIMEOUT = 10.0
"""Seconds that a write waits for another process's before it gives up with StoreBusyError."""
BRIEF = 3.0
"""The same for who tries again by himself and is waited for: a worker that was not heard of for 10 s sends nothing."""
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0
"""Seconds from one try of a transaction to the next: twice as long each time."""

T = TypeVar("T")
log = logging.getLogger(__name__)

MOVING: Final = "moving"
"""The fact that a database has while it is copied, and its source ever after: see `store/copying.py`."""


class Tries:
    """How often, and for how long, something is tried again that a passing trouble of the database has stopped."""

    def __init__(self, *, repeatable: bool = False) -> None:
        """`repeatable`: also where nobody knows whether it was done."""
        self._repeatable = repeatable
        self._wait, self._until = FIRST_WAIT, time.monotonic() + BUSY_TIMEOUT

    def after(self, error: StoreBusyError) -> float:
        """Seconds until the next try. Raises the error where there is to be none."""
        again = isinstance(error, TransientError) or (self._repeatable and isinstance(error, OutcomeUnknownError))
        if not again or time.monotonic() + self._wait > self._until:
            raise error
        if error.code != "database_unreachable":  # that is told once for all
            log.warning("a transaction is tried again: %s", error)
        wait, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT)
        # By chance, so that two who met do not meet again.
        return wait * random.uniform(0.5, 1.0)  # noqa: S311


def patiently(work: Callable[[], T], *, repeatable: bool = False) -> T:
    """What `work` returns, which is done again where that changes nothing, for BUSY_TIMEOUT seconds. Raises StoreBusyError."""
    tries = Tries(repeatable=repeatable)
    while True:
        try:
            return work()
        except StoreBusyError as error:
            wait = tries.after(error)
        time.sleep(wait)


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
    def part(self) -> Iterator[Self]:
        """A part that can fail alone: when the block raises, what it wrote is undone; the rest of the transaction stays."""
        part = replace(self, _after=[])
        driver.execute(self.conn, "SAVEPOINT part")
        try:
            yield part
        except BaseException:
            if not self.conn.invalidated:  # else the session is gone, and all of the transaction with it
                driver.execute(self.conn, "ROLLBACK TO part")
                driver.execute(self.conn, "RELEASE part")
            raise
        driver.execute(self.conn, "RELEASE part")
        for callback in part._after:
            self.after_commit(callback)

    def lock(self, *names: str, shared: bool = False) -> None:
        """Keep every other transaction that locks one of these names waiting until this one's end; `shared`: those that do
        not share it. What is read afterwards is what they left. On SQLite, where writers take turns, that is so anyway.
        """

    def announce(self) -> None:
        """Tell the watches of other processes that there is something to look at. SQLite's notice any commit by themselves."""

    def _committed(self) -> None:
        for callback in self._after:
            callback()


class Database(ABC):
    """Where everything is kept. Thread-safe; `read` and `write` are the only ways in."""

    kind: str
    """`SQLite` or `PostgreSQL`, as people write it."""
    one_writer: bool
    """Whether writers take turns, all of them."""

    @staticmethod
    def open(
        url: str,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        secret_keys: Sequence[str] = (),
        direct_url: str | None = None,
    ) -> Database:
        """The database that the URL names; nothing is read or written yet.

        `secret_keys`: MARZHOOK_SECRET_KEY; without any, SQLite has its key in a file beside the database.
        `direct_url`: the server's own (MARZHOOK_WORKER_DATABASE_URL), where `url` is a pooler's.
        Raises DatabaseError for what is no such URL.
        """
        # Imported when it is wanted: each has a driver of its own.
        family = url.partition(":")[0].lower()
        if family == "sqlite":
            from marzhook.store.sqlite import SQLiteDatabase

            return SQLiteDatabase(url, busy_timeout=busy_timeout, secret_keys=secret_keys)
        if family in ("postgresql", "postgres"):
            try:
                from marzhook.store.postgresql import PostgreSQLDatabase
            except ImportError as error:
                # psycopg is there or not, or finds no libpq: what to do is the same.
                if "marzhook" in (error.name or ""):
                    raise
                raise DatabaseError(
                    "PostgreSQL needs a driver that is not installed here; type: pip install 'marzhook[server,postgres]'"
                    " (in a checkout: make run, or pip install '.[server,postgres]')",
                    code="driver_missing",
                ) from None
            return PostgreSQLDatabase(url, busy_timeout=busy_timeout, secret_keys=secret_keys, direct_url=direct_url)
        raise DatabaseError(
            f"{family} is not supported, and not needed: MARZHOOK_DATABASE_URL is sqlite:///FILE or postgresql://…"
        )

    def __init__(self, name: str, vault: Vault) -> None:
        self.name = name
        """As people are told it: a path, or a URL without its password."""
        self.vault = vault

    # -- transactions

    @contextmanager
    def read(self, *, by_key: bool = False, own: bool = False) -> Iterator[sa.Connection]:
        """One consistent view of the database; nothing is written.

        `by_key`: what is read is a few rows among very many, found through keys, however the planner sees that. `own`: on a
        connection that calls cannot take from who sends; so are those by key.
        """
        with self._explained(), self._reading(by_key, own) as conn:
            yield conn

    @contextmanager
    def write(self, *, durable: bool = True, brief: bool = False) -> Iterator[Transaction]:
        """All or nothing, on disk when the block has ended. Raises StoreBusyError when it could not be written.

        `durable` False: on disk with the next durable one. So the others do not wait for the disk; a power failure in
        between undoes it, as a whole. `brief`: on PostgreSQL it has connections of its own, and
        waits for another's lock for BRIEF seconds only.
        """
        with self._explained(), self._writing(durable, brief) as tx:
            yield tx
        # What fails from here on is no trouble of the transaction, which must not be taken for undone.
        tx._committed()

    def look(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` reads in one consistent view, again where the connection was lost: as long as `transact` tries.

        For who has somebody waiting for it, and not for an event loop or the dispatcher's thread. Raises StoreBusyError.
        """

        def once() -> T:
            with self.read() as conn:
                return work(conn)

        return patiently(once)

    def transact(self, work: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        """Do `work` in a write transaction and return its result once that is on disk.

        Again where nothing was changed and the same may work now, for BUSY_TIMEOUT seconds: `work` changes things through its
        transaction alone. `repeatable`: also where nobody knows whether it was done, because `work` recognises that.
        Raises StoreBusyError.
        """

        def once() -> T:
            with self.write() as tx:
                return work(tx)

        return patiently(once, repeatable=repeatable)

    # -- start and stop

    @abstractmethod
    def exists(self) -> bool:
        """Whether it was made already. Raises DatabaseError when that cannot be found out."""

    def prove_session(self) -> None:  # noqa: B027 - where one process does all there is nothing to prove
        """Raise StartError, or what else is in the way, where this process could not take part in `shards`."""

    def shards(self, told: str) -> ShardHolder:
        """Begin to share what is owed with other processes, who know this one by `told`."""
        raise DatabaseError(f"{self.name} is one process's own; several workers need PostgreSQL")

    def horizon(self) -> Horizon:
        """What dispatchers go by when they look for new events."""
        return Horizon()

    def caretaker(self) -> Caretaker:
        """This process's part in looking after what one of them does for all."""
        return Caretaker()

    @abstractmethod
    def claim(self) -> None:
        """Where one process delivers (on SQLite): become it, for as long as it lives: nothing is left to mend.

        Raises AlreadyRunningError, naming the holder.
        """

    @abstractmethod
    def holder(self) -> str | None:
        """Which process delivers from it just now, in words; None: nobody does."""

    def workers(self) -> list[Worker]:
        """Which processes deliver from it just now, the eldest first."""
        holder = self.holder()
        return [Worker(holder, "local", None, tuple(range(SHARDS)))] if holder else []

    def upgrade(self, *, moving: bool = False) -> None:
        """Create the database or bring it to this version's schema, and find the key to its secrets.

        `moving`: also where it is being copied to another place, or was. Raises DatabaseError, DatabaseNewerError.
        """
        self._prepare()
        known = migrations.revisions()
        current = self.revision()
        if current is not None and current not in known:
            raise DatabaseNewerError(
                f"{self.name} was made by a newer Marzhook (its schema is {current}, this version knows up to "
                f"{known[-1]}); install that version again, or restore a backup"
            )
        if current is not None and not moving:
            self._refuse_moving()
        self._found_ours()
        if current == known[-1] and self._unlocked():
            return
        with self.write() as tx:
            tx.lock("upgrade")
            migrations.upgrade(tx.conn)
            tx.conn.execute(
                sa.text("INSERT INTO meta (key, value) VALUES ('instance', :i) ON CONFLICT (key) DO NOTHING"),
                {"i": secrets.token_hex(4)},
            )
            sealed = self.vault.found(tx.conn)
            signals.emit("migrate.before_commit")
        if sealed:
            self._forget_what_was_plain()
        self._unlocked()

    @abstractmethod
    def watch(self) -> ChangeWatch:
        """From now on, notice what others commit. It may also ask for a look where nothing was: what is told can be lost."""

    def commits(self) -> ChangeWatch:
        """From now on, notice what anybody commits, and be quiet else: for who is to be disturbed by nothing. It never raises
        because the database is away, and can take as long as that is given to answer."""
        return self.watch()

    def checkpoint(self, keep: int) -> bool:
        """Where it keeps a log beside it: write that back, and shorten it to `keep` bytes; return whether that was done."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Close all connections and let go of it."""

    # -- facts

    def revision(self) -> str | None:
        """Its schema's; None: it is empty. Raises DatabaseError where it is another program's."""
        with self.read() as conn:
            return self._revision(conn)

    @abstractmethod
    def version(self) -> str:
        """Of the database software."""

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

    # -- what each of the two does in its own way

    @abstractmethod
    def _reading(self, by_key: bool, own: bool) -> AbstractContextManager[sa.Connection]: ...

    @abstractmethod
    def _writing(self, durable: bool, brief: bool) -> AbstractContextManager[Transaction]: ...

    @abstractmethod
    def _explained(self) -> AbstractContextManager[None]:
        """Turn the database's own errors into ours, which say what to do."""

    def _prepare(self) -> None:  # noqa: B027 - not everyone has something to do here, nor in the next two
        """Before the database is looked at for the first time."""

    def _found_ours(self) -> None:  # noqa: B027
        """It is empty or ours: only now may its properties be changed."""

    def _forget_what_was_plain(self) -> None:  # noqa: B027
        """After secrets that were plain were sealed."""

    # -- parts of the above

    def _revision(self, conn: sa.Connection) -> str | None:
        tables = set(sa.inspect(conn).get_table_names())
        if not tables:
            return None
        # Other programs use Alembic too, the panel among them: its revisions are not ours.
        if not {"alembic_version", "meta", "pending"} <= tables:
            raise DatabaseError(
                f"{self.name} is a database of another program; set MARZHOOK_DATABASE_URL to another one"
            )
        revision: str | None = conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return revision

    def _refuse_moving(self) -> None:
        with self.read() as conn:
            mark = self.meta(conn, MOVING)
        if mark is None:
            return
        if mark.startswith("{"):
            raise DatabaseError(
                f"the copy into {self.name} is not complete: `marzhook db copy` goes on with it", code="database_moving"
            )
        raise DatabaseError(
            f"{self.name} was copied to PostgreSQL, or is being so: started on both, everything would be delivered twice; set"
            " MARZHOOK_DATABASE_URL to the new one (to go back to this one: docs/reference.md, Moving to PostgreSQL)",
            code="database_moving",
        )

    def _unlocked(self) -> bool:
        with self.read() as conn:
            return self.vault.unlock(conn)
