"""Is what is kept whole, and does it belong together? Looks at everything once, and changes nothing."""
# ruff: noqa: S608 - put together of our own words

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from marzhook.errors import DatabaseError
from marzhook.store import driver, migrations, schema
from marzhook.store.database import Database
from marzhook.store.driver import Statement, is_postgresql
from marzhook.store.vault import SEALED, SEALED_META

RESTORE: Final = "stop the service, keep a copy of the database as it is, and restore the newest backup"

COUNTED: Final = ("users", "events", "pending", "settled", "attempts", "endpoints", "admins")
"""Tables whose rows people are told of."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, in words, and what to do about it."""

    code: str
    problem: str
    mend: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that holds in every whole database: the statement counts the rows that break it."""

    code: str
    statement: Statement
    problem: str
    mend: str


_IS_OWED = "EXISTS (SELECT 1 FROM pending p WHERE p.endpoint_id = {0}.endpoint_id AND p.event_id = {0}.event_id)"
_IS_SETTLED = _IS_OWED.replace("pending", "settled")
_HAS_EVENT = "EXISTS (SELECT 1 FROM events e WHERE e.id = {0}.event_id)"


def _count(rest: str) -> Statement:
    return Statement(f"SELECT count(*) FROM {rest}")


def _reference(table: str) -> Rule:
    """PostgreSQL has no foreign key there, see `schema`; SQLite looks by itself."""
    lost = f"SELECT count(*) FROM {table} d WHERE NOT EXISTS (SELECT 1 FROM endpoints n WHERE n.id = d.endpoint_id)"
    return Rule("reference_broken", Statement("SELECT 0", lost), f"rows of {table} refer to what is gone", RESTORE)


RULES: Final = (
    _reference("pending"),
    _reference("settled"),
    Rule(
        "owed_and_settled",
        _count(f"settled s WHERE {_IS_OWED.format('s')}"),
        "deliveries are owed and settled at once",
        "DELETE FROM pending WHERE EXISTS (SELECT 1 FROM settled s WHERE s.endpoint_id = pending.endpoint_id"
        " AND s.event_id = pending.event_id); sends them no more",
    ),
    Rule(
        "owed_without_event",
        _count(f"pending d WHERE NOT {_HAS_EVENT.format('d')}"),
        "deliveries are owed whose event is gone, and can never be sent",
        "DELETE FROM pending WHERE event_id NOT IN (SELECT id FROM events); or restore a backup that has the events",
    ),
    Rule(
        "settled_without_event",
        _count(f"settled d WHERE NOT {_HAS_EVENT.format('d')}"),
        "settled deliveries have lost their event",
        "DELETE FROM settled WHERE event_id NOT IN (SELECT id FROM events); nothing that is owed depends on them",
    ),
    Rule(
        "attempt_without_delivery",
        _count(f"attempts a WHERE NOT {_IS_OWED.format('a')} AND NOT {_IS_SETTLED.format('a')}"),
        "attempts belong to no delivery",
        "they harm nothing; DELETE FROM attempts WHERE event_id NOT IN (SELECT id FROM events); removes most of them",
    ),
    Rule(
        "user_without_counters",
        _count("users u WHERE NOT EXISTS (SELECT 1 FROM counters c WHERE c.user_id = u.id)"),
        "users have no count of their traffic",
        "INSERT INTO counters (user_id, used_traffic, lifetime_used_traffic) SELECT id, 0, 0 FROM users"
        " WHERE id NOT IN (SELECT user_id FROM counters); counts from zero",
    ),
)  # fmt: skip


def findings(database: Database) -> Iterator[Finding]:
    """All that is wrong, in the order in which it is best mended. Raises StoreBusyError; DatabaseError where nothing of ours
    can be read at all."""
    known, current = migrations.revisions(), database.revision()
    if current is None:
        yield Finding(
            "empty", f"{database.name} is empty", "`marzhook db migrate` makes the tables, and so does the service"
        )
        return
    try:
        yield from _damage(database)
        if current not in known:
            yield Finding(
                "schema_newer",
                f"the schema is {current}, and this version knows up to {known[-1]}",
                "use the newer version of Marzhook that made it",
            )
            return
        if current != known[-1]:
            yield Finding(
                "schema_older",
                f"the schema is {current}, and this version's is {known[-1]}; the rest was not checked",
                "back it up and run `marzhook db migrate`, or start the service, which does the same",
            )
            return
        with _reading(database) as conn:
            for rule in RULES:
                [number] = driver.execute(conn, rule.statement).fetchone()
                if number:
                    yield Finding(rule.code, f"{number:,} {rule.problem}", rule.mend)
            yield from _used_ids(conn)
        yield from _secrets(database)
    except DatabaseError as error:
        yield Finding(error.code, str(error), RESTORE)


@contextmanager
def _reading(database: Database) -> Iterator[sa.Connection]:
    """However long a look takes: what a server allows a statement is meant for those whom somebody waits for."""
    with database.read() as conn:
        if is_postgresql(conn):
            conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield conn


def counts(database: Database) -> dict[str, int]:
    """Rows of each table that people are told of. Raises DatabaseError where it is damaged."""
    with _reading(database) as conn:
        return {
            name: conn.execute(sa.select(sa.func.count()).select_from(schema.metadata.tables[name])).scalar_one()
            for name in COUNTED
        }


def _damage(database: Database) -> Iterator[Finding]:
    """What the database software itself finds."""
    with _reading(database) as conn:
        if is_postgresql(conn):
            rows = conn.exec_driver_sql(
                "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                " WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace ORDER BY 1"
            )
            for (name,) in rows:
                yield Finding("index_invalid", f"the index {name} is not usable", f"REINDEX INDEX {name};")
            rows = conn.exec_driver_sql(
                "SELECT conname FROM pg_constraint"
                " WHERE NOT convalidated AND connamespace = current_schema()::regnamespace ORDER BY 1"
            )
            for (name,) in rows:
                yield Finding("constraint_invalid", f"the constraint {name} was never checked", RESTORE)
            return
        told = [row[0] for row in conn.exec_driver_sql("PRAGMA integrity_check(20)")]
        for line in told if told != ["ok"] else []:
            yield Finding("damaged", f"the file is damaged: {' '.join(str(line).split())}", RESTORE)
        broken = conn.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        for table in sorted({row[0] for row in broken}):
            number = sum(row[0] == table for row in broken)
            yield Finding("reference_broken", f"{number:,} rows of {table} refer to what is gone", RESTORE)


def _used_ids(conn: sa.Connection) -> Iterator[Finding]:
    """Ids are never used again: the next one lies behind all that are there. A dump restored by halves can break that."""
    for table in schema.metadata.sorted_tables:
        sequence = id_sequence(conn, table)
        if sequence is None:
            continue
        last = driver.execute(conn, f"SELECT max(id) FROM {table.name}").fetchone()[0] or 0
        given = given_ids(conn, sequence)
        if given < last:
            mend = (
                f"SELECT setval('{sequence}', {last});"
                if is_postgresql(conn)
                else f"UPDATE sqlite_sequence SET seq = {last} WHERE name = '{table.name}';"
            )
            yield Finding("ids_repeat", f"new rows of {table.name} would get ids that are in use", mend)


def id_sequence(conn: sa.Connection, table: sa.Table) -> str | None:
    """What gives the table's rows their ids: on PostgreSQL a sequence, on SQLite the table's name where it remembers them."""
    if "id" not in table.c:
        return None
    if is_postgresql(conn):
        name: str | None = conn.exec_driver_sql("SELECT pg_get_serial_sequence(%s, 'id')", (table.name,)).scalar()
        return name
    return table.name if table.dialect_options["sqlite"]["autoincrement"] else None


def given_ids(conn: sa.Connection, sequence: str) -> int:
    """The highest id that was ever given by it."""
    if is_postgresql(conn):
        words = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"
        return int(conn.exec_driver_sql(words).scalar_one())
    found = conn.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (sequence,)).scalar()
    return int(found or 0)


def _secrets(database: Database) -> Iterator[Finding]:
    vault = database.vault
    with _reading(database) as conn:
        try:
            if not vault.unlock(conn):
                yield Finding("secrets_plain", "secrets in it are not encrypted yet", "run `marzhook db migrate`")
                return
        except DatabaseError as error:
            yield Finding(error.code, str(error), "nothing can be sent without the key; docs/reference.md, A lost key")
            return
        unreadable = []
        for row in conn.execute(sa.select(schema.endpoints).order_by(schema.endpoints.c.id)).mappings():
            unreadable += [f"{name} of endpoint {row['id']}" for name in SEALED if _unreadable(database, row[name])]
        rows = conn.execute(sa.select(schema.meta).where(schema.meta.c.key.in_(SEALED_META)))
        unreadable += [row.key for row in rows if _unreadable(database, row.value)]
    for what in unreadable:
        yield Finding(
            "secret_unreadable",
            f"{what} was sealed with another key, or is damaged",
            "put the older key behind the one in use (MARZHOOK_SECRET_KEY = \"new,old\"); where it is lost: docs/reference.md,"
            " A lost key",
        )  # fmt: skip


def _unreadable(database: Database, stored: str | None) -> bool:
    try:
        if stored is not None:
            database.vault.reveal(stored)
    except DatabaseError:
        return True
    return False
