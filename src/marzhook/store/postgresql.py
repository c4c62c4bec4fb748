"""One PostgreSQL database (>= 14), through psycopg: many connections, many processes.

Writers do not take turns here, as they do on SQLite. Each statement of a write transaction sees what was committed before it
(READ COMMITTED), and who reads in order to write locks first: rows, or names (`Transaction.lock`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.pool import QueuePool, StaticPool

from marzhook.errors import (
    DatabaseError,
    InvalidError,
    MarzhookError,
    OutcomeUnknownError,
    StoreBusyError,
    TransientError,
)
from marzhook.store import driver
from marzhook.store.database import (
    BRIEF,
    BUSY_TIMEOUT,
    Database,
    Transaction,
)
from marzhook.store.presence import presence_of
from marzhook.store.sharing import Caretaker, ChangeWatch, Horizon, ShardHolder
from marzhook.store.statements import BY_KEY
from marzhook.store.vault import OPTION, Vault
from marzhook.store.workers import Worker

OLDEST: Final = 14
CHANNEL: Final = "marzhook"
"""Notified of what dispatchers should look at."""

PATIENCE: Final = {
    "keepalives": "1", "keepalives_idle": "5", "keepalives_interval": "5", "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}  # fmt: skip
"""How soon this side gives a server up that it is cut off from (seconds; milliseconds). What the URL says goes first."""
IDLE: Final = 25
"""Seconds after which the server ends a write transaction, and a session that holds locks, in which nothing happens: its
process hangs, or is cut off, and others wait for its locks."""

# Advisory locks have two numbers. The first says what kind of thing is locked.
NAMED: Final = 0x4D5A01
CARETAKER: Final = 0x4D5A02
SHARD: Final = 0x4D5A03
WORKER: Final = 0x4D5A04
TURN: Final = 0x4D5A05
WANTED: Final = 0x4D5A06
PROOF: Final = 0x4D5A07
PAUSED: Final = 0x4D5A08

# How the driver begins to tell that a connection was not made at all: libpq has no codes for that. And what is in its words
# where nobody need try again (in English; in other languages that is told as if it could be mended by waiting).
_NEVER_REACHED = ("connection failed", "connection is bad", "failed to resolve", "connection timeout")
_REFUSED = ("authentication failed", "does not exist", "pg_hba.conf", "permission denied")
_FULL = ("too many clients", "too many connections", "connection slots", "no more connections", "max clients")
"""So do the server, and poolers before it, say that they have no place for one more session: others go on."""
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LOCK = "SELECT pg_advisory_xact_lock(%s, name) FROM unnest(CAST(%s AS integer[])) AS name"
_LOCK_SHARED = _LOCK.replace("_lock(", "_lock_shared(")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is, and by which setting."""

    name: str
    """The URL without user, password and options."""
    setting: str
    parts: dict[str, str]

    @classmethod
    def of(cls, url: str, setting: str) -> Address:
        parts = _parts_of(url, setting)
        return cls(_name_of(parts), setting, parts)


def _nothing() -> None:
    """Nobody is told."""


@dataclass(slots=True)
class _Transaction(Transaction):
    _announce: Callable[[], None] = _nothing

    def lock(self, *names: str, shared: bool = False) -> None:
        if not names:
            return
        # In one order everywhere, or two could wait for each other.
        numbers = sorted({name_lock(name) for name in names})
        self.conn.exec_driver_sql(_LOCK_SHARED if shared else _LOCK, (NAMED, numbers))

    def announce(self) -> None:
        # After the commit: transactions that notify commit one after the other, and each would wait for the others' disk.
        self.after_commit(self._announce)


class PostgreSQLDatabase(Database):
    kind = "PostgreSQL"
    one_writer = False

    def __init__(
        self,
        url: str,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        secret_keys: Sequence[str] = (),
        direct_url: str | None = None,
    ) -> None:
        """`direct_url`: the server's own, for the sessions that hold locks or listen, where `url` is a pooler's."""
        self.address = Address.of(url, "MARZHOOK_DATABASE_URL")
        self.direct = Address.of(direct_url, "MARZHOOK_WORKER_DATABASE_URL") if direct_url else self.address
        super().__init__(self.address.name, Vault(self.address.name, secret_keys))
        brief = min(BRIEF, busy_timeout)
        engine = partial(
            sa.create_engine,
            "postgresql+psycopg://",
            # libpq reads the URL itself: it knows several hosts, certificates, services and password files.
            creator=self.connect,
            # A failed statement is logged, and its parameters may be secrets.
            hide_parameters=True,
            use_native_hstore=False,
            poolclass=QueuePool,
            # A connection that the server has closed meanwhile (a restart, a failover) is noticed before it is used.
            pool_pre_ping=True,
            execution_options={OPTION: self.vault, "marzhook_begin": _READ},
        )
        self._engine = engine(pool_size=10, max_overflow=20, pool_timeout=busy_timeout)
        # Of who sends: the dispatcher's reads and its settler's notes wait for no calls, which may have all others for long.
        self._own_engine = engine(pool_size=2, max_overflow=2, pool_timeout=brief)
        for one in (self._engine, self._own_engine):
            sa.event.listen(one, "begin", _begin)
        # In one journey. Not options of the session: a pooler would give them to others, or refuse them.
        begin, self.begin_brief = (
            f"BEGIN; SET LOCAL lock_timeout = {int(patience * 1000)};"
            f" SET LOCAL idle_in_transaction_session_timeout = {IDLE * 1000}"
            for patience in (busy_timeout, brief)
        )
        self._write_engine, self._lazy_engine, self._brief_engine, self._look_engine, self._key_engine = (
            one.execution_options(marzhook_begin=statements)
            for one, statements in (
                (self._engine, begin),
                (self._engine, f"{begin}; SET LOCAL synchronous_commit = off"),
                (self._own_engine, self.begin_brief),
                (self._own_engine, _READ),
                (self._own_engine, f"{_READ}; {BY_KEY}"),
            )
        )

    def connect(self, **more: str) -> psycopg.Connection[Any]:
        """A session of its own. It begins no transactions by itself, and prepares no statements: a pooler, which gives each
        transaction another session, would not find them again."""
        return self._session(self.address.parts, more)

    def connect_directly(self, **more: str) -> psycopg.Connection[Any]:
        """A session that stays one: for locks of the session, and for LISTEN. Locks of a standby's would keep nobody away, so
        it is the primary's."""
        return self._session({"target_session_attrs": "read-write"} | self.direct.parts, more)

    @staticmethod
    def _session(parts: dict[str, str], more: dict[str, str]) -> psycopg.Connection[Any]:
        return psycopg.connect(make_conninfo(**PATIENCE | parts | more), autocommit=True, prepare_threshold=None)

    def exists(self) -> bool:
        with self.read() as conn:
            return sa.inspect(conn).has_table("meta")

    def claim(self) -> None:
        """Nothing to do: several processes share what is owed, by shards."""

    def holder(self) -> str | None:
        with self.read() as conn:
            return conn.exec_driver_sql(
                "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
                " WHERE l.locktype = 'advisory' AND l.classid = %s AND l.objsubid = 2 AND l.granted"
                " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1",
                (WORKER,),
            ).scalar()

    def watch(self) -> ChangeWatch:
        from marzhook.store.sessions import Listener

        return Listener(self)

    def commits(self) -> ChangeWatch:
        from marzhook.store.sessions import Snapshots

        return Snapshots(self)

    def workers(self) -> list[Worker]:
        from marzhook.store.shards import workers

        return workers(self)

    def prove_session(self) -> None:
        from marzhook.store.shards import holding_session

        holding_session(self, "marzhook").close()

    def shards(self, told: str) -> ShardHolder:
        from marzhook.store.shards import ShardSession

        return ShardSession(self, told)

    def horizon(self) -> Horizon:
        from marzhook.store.shards import PublishHorizon

        return PublishHorizon(self)

    def caretaker(self) -> Caretaker:
        from marzhook.store.sessions import SessionCaretaker

        return SessionCaretaker(self)

    def close(self) -> None:
        self._engine.dispose()
        self._own_engine.dispose()

    def version(self) -> str:
        with self.read() as conn:
            return str(conn.exec_driver_sql("SHOW server_version").scalar_one())

    # -- in PostgreSQL's way

    def _reading(self, by_key: bool, own: bool) -> AbstractContextManager[sa.Connection]:
        return (self._key_engine if by_key else self._look_engine if own else self._engine).begin()

    @contextmanager
    def _writing(self, durable: bool, brief: bool) -> Iterator[Transaction]:
        engine = self._brief_engine if brief else self._write_engine if durable else self._lazy_engine
        with engine.connect() as conn, conn.begin() as transaction:
            yield self.transaction(conn)
            try:
                transaction.commit()
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                raise OutcomeUnknownError(
                    f"{self.name} went away during the commit, and nobody knows whether it was done; look, or repeat it with"
                    " the same Idempotency-Key"
                ) from error

    def transaction(self, conn: sa.Connection) -> Transaction:
        """On a connection where one was begun."""
        return _Transaction(conn, _announce=self._notify)

    def _notify(self) -> None:
        # Lost when the process dies just here: those who listen also look by themselves now and then.
        with suppress(sa.exc.SQLAlchemyError, psycopg.Error), self._engine.connect() as conn:
            driver.execute(conn, "SELECT pg_notify(?, '')", (CHANNEL,))

    def _explained(self) -> AbstractContextManager[None]:
        return self.explained(self.address)

    @contextmanager
    def explained(self, address: Address) -> Iterator[None]:
        """Turn the driver's errors into ours, which name the address that was tried."""
        presence = presence_of(address.name)
        try:
            yield
            presence.back()
        except sa.exc.TimeoutError as error:
            raise StoreBusyError(
                f"all connections to {address.name} are in use; nothing was changed, try again"
            ) from error
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            if not isinstance(cause, psycopg.Error) or (explained := _explanation(address, cause)) is None:
                raise
            if explained.code == "database_unreachable":
                presence.gone(_words_of(cause))
            raise explained from error

    def _prepare(self) -> None:
        with self.read() as conn:
            number = int(conn.exec_driver_sql("SHOW server_version_num").scalar_one())
            encoding = conn.exec_driver_sql("SHOW server_encoding").scalar_one()
        if number < OLDEST * 10_000:
            raise DatabaseError(f"{self.name} is PostgreSQL {number // 10_000}; {OLDEST} or newer is needed")
        if encoding != "UTF8":
            raise DatabaseError(f"{self.name} has the encoding {encoding}; create one with ENCODING 'UTF8'")


def writer_engine(database: PostgreSQLDatabase, creator: Callable[[], psycopg.Connection[Any]]) -> sa.Engine:
    """Write transactions that go by keys, one after the other, on the one connection that `creator` gives."""
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=creator, hide_parameters=True, use_native_hstore=False, poolclass=StaticPool,
        execution_options={OPTION: database.vault, "marzhook_begin": f"{database.begin_brief}; {BY_KEY}"},
    )  # fmt: skip
    sa.event.listen(engine, "begin", _begin)
    return engine


def _begin(conn: sa.Connection) -> None:
    # By the driver's own hand: two statements in one journey need the simple protocol, without parameters.
    cursor = conn.connection.cursor()
    try:
        cursor.execute(conn.get_execution_options()["marzhook_begin"])
    except psycopg.Error as error:
        if cursor.connection.broken:
            # Else the pool would try to roll back, and tell the log at length that it cannot.
            conn.invalidate(error)
        raise
    cursor.close()


def name_lock(name: str) -> int:
    """32 bits, signed. Two names that meet in one number wait for each other now and then, and that is all."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), signed=True)


def _parts_of(url: str, setting: str) -> dict[str, str]:
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error as error:
        # libpq's words could hold the whole URL, and with it the password.
        raise DatabaseError(
            f"{setting} is not a PostgreSQL URL like postgresql://user:password@host:5432/database"
        ) from error.with_traceback(None)
    # For each host. One that is gone, of several, is in the way of every new session: time for the network's second repeat.
    patience = "4" if "," in parts.get("host", "") else "10"
    return {"connect_timeout": patience, "fallback_application_name": "marzhook", **parts, "client_encoding": "utf8"}


def _name_of(parts: dict[str, str]) -> str:
    host, port, database = parts.get("host", ""), parts.get("port", ""), parts.get("dbname", "")
    if host.startswith("/"):
        return f"postgresql:///{database}?host={host}"
    ports = port.split(",") if port else []
    ports = ports * len(host.split(",")) if len(ports) == 1 else ports
    hosts = [":".join(filter(None, pair)) for pair in zip(host.split(","), ports, strict=False)] if ports else [host]
    return f"postgresql://{','.join(hosts)}/{database}"


def _words_of(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip().splitlines()[0][:300]


def _explanation(address: Address, error: psycopg.Error) -> MarzhookError | None:
    name = address.name
    state = error.sqlstate or ""
    text = _words_of(error)
    match state:
        case "40001" | "40P01" | "53000" | "53200" | "53300" | "53400":  # it met another one, or memory is short
            return TransientError(f"{name} is busy ({text}); nothing was changed, try again")
        case "55P03" | "57014":
            return StoreBusyError(f"{name} is busy ({text}); nothing was changed, try again")
        case "53100":
            return StoreBusyError(f"{name} could not be written ({text}); free some space", code="disk_full")
        case "25006":
            return TransientError(f"{name} can only be read just now ({text}); try again when it is the primary")
        case "42501":
            return DatabaseError(
                f"{name} cannot be used ({text}); give its user the rights to create and change tables"
            )
        case "22021":
            return InvalidError("a text contains characters that cannot be kept", code="invalid_text")
    if not state and text.startswith(_NEVER_REACHED):
        if any(words in text for words in _REFUSED):
            return DatabaseError(f"{name} cannot be opened ({text}); check {address.setting}")
        if any(words in text for words in _FULL):
            return TransientError(f"{name} takes no more connections ({text}); nothing was changed, try again")
        return TransientError(
            f"{name} cannot be reached ({text}); check that it runs, and {address.setting}",
            code="database_unreachable",
        )
    # Perhaps this session alone: whether the server is away the next one finds out.
    gone = state[:2] in ("08", "57") or state in ("25P03", "25P04")  # it idled, or took, longer than it may
    if gone or (not state and isinstance(error, psycopg.OperationalError)):
        return TransientError(f"{name} ended a session ({text}); nothing was changed, try again")
    if isinstance(error, psycopg.DataError) and "NUL" in text:
        return InvalidError("a text contains the character NUL, which cannot be kept", code="invalid_text")
    return None
