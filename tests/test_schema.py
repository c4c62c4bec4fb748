"""The tables: what they are, what they refuse, and how the hot queries go through them."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from marzhook.event import NewEvent
from marzhook.store import driver, endpoints, schema
from marzhook.store.database import Database
from marzhook.store.driver import Statement
from marzhook.store.outbox import Outbox
from marzhook.store.outbox_sql import BEHIND, DELETE_SETTLED, FOLLOWING, HASTENED, LOAD, WINDOW
from marzhook.store.postgresql import PostgreSQLDatabase, writer_engine
from marzhook.store.statements import as_list
from marzhook.testing import FakeClock
from postgresql import Server

CATALOGUE = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, l.collname,
        pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
        AND c.relname <> 'alembic_version'
    UNION ALL
    SELECT r.relname, n.conname, pg_get_constraintdef(n.oid), '', '', ''
    FROM pg_constraint n JOIN pg_class r ON r.oid = n.conrelid
    WHERE r.relnamespace = 'public'::regnamespace AND r.relname <> 'alembic_version' AND NOT r.relispartition
    UNION ALL
    SELECT tablename, indexname, indexdef, '', '', '' FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        AND NOT (SELECT relispartition FROM pg_class WHERE oid = format('%I.%I', schemaname, tablename)::regclass)
    ORDER BY 1, 2, 3"""


PARTITION = re.compile(r"_\d+$")


def an_endpoint(database: Database, clock: FakeClock) -> None:
    with database.write() as tx:
        endpoints.create(tx, now=clock.now(), kind="webhook", url="http://x/")


def test_migrations_build_what_is_declared(database: Database) -> None:
    """The migrations' schema and the declared one are the same: tables, columns and indexes."""
    with database.read() as conn:
        opts = {
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or not PARTITION.search(name),
            # Alembic does not know that some are SQLite's alone. PostgreSQL's catalogue is compared below.
            "include_object": lambda _, __, kind, *___: kind != "foreign_key_constraint" or database.kind == "SQLite",
        }
        assert compare_metadata(MigrationContext.configure(conn, opts=opts), schema.metadata) == []


@pytest.mark.sqlite
def test_sqlites_statements_are_the_same(database: Database, tmp_path: Path) -> None:
    """Migrated and declared, a SQLite file has the same statements in it, to the text of every CHECK."""
    declared = tmp_path / "declared.db"
    engine = sa.create_engine(f"sqlite:///{declared}")
    schema.metadata.create_all(engine)
    engine.dispose()

    def parts(path: Path) -> dict[str, list[str]]:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
            )
            # Line by line: both are written one column or constraint a line (but for columns that were added later), the
            # order of constraints may differ.
            return {
                name: sorted(
                    re.sub(r"[\s\"]+", " ", line).strip(" ,")
                    for line in re.sub(r", (?=\w+ [A-Z]+( DEFAULT '?\w+'?)?( NOT NULL)?,)", "\n", sql).splitlines()
                )
                for name, sql in rows
            }

    assert parts(Path(database.name)) == parts(declared)


def test_postgresqls_catalogues_are_the_same(postgresql: Server, template: str) -> None:
    """Migrated and declared, a PostgreSQL database has the same columns, constraints and indexes."""

    def parts(name: str) -> list[tuple[str, ...]]:
        with psycopg.connect(postgresql.url(name)) as connection:
            return [tuple(row) for row in connection.execute(CATALOGUE)]

    with postgresql.database() as name:
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(postgresql.url(name)))
        schema.metadata.create_all(engine)
        engine.dispose()
        assert parts(template) == parts(name)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO settled VALUES (1, 9, 'lost', 0, 0, 1.0)",
        "INSERT INTO settled VALUES (1, 9, 'delivered', 2, 1, 1.0)",
        "INSERT INTO pending VALUES (1, 9, -1, 0, NULL, NULL, NULL)",
        "INSERT INTO pending VALUES (1, 9, 2, 1, NULL, NULL, NULL)",
        "INSERT INTO attempts VALUES (1, 9, 0, 1.0, 0.1, 200, NULL, '', '', NULL, NULL, NULL)",
        "INSERT INTO attempts VALUES (1, 9, 1, 1.0, 0.1, NULL, NULL, '', '', NULL, NULL, NULL)",
        "INSERT INTO attempts VALUES (1, 9, 1, 1.0, 0.1, 200, 'timeout', '', '', NULL, NULL, NULL)",
        "INSERT INTO attempts VALUES (1, 9, 1, 1.0, 0.1, 500, NULL, '', '', 'whenever', NULL, NULL)",
        "INSERT INTO events (id, action, username, enqueued_at) VALUES (9, '', 'u', 1.0)",
        "INSERT INTO events (id, action, username, enqueued_at) VALUES (9, 'user_created', '', 1.0)",
        "UPDATE endpoints SET format = 'xml'",
        "UPDATE endpoints SET secret_mode = 'none'",
        "UPDATE endpoints SET learned_mode = 'auto'",
        "UPDATE endpoints SET detail = 'some'",
        "UPDATE endpoints SET source = 'dream'",
        "UPDATE endpoints SET concurrency = 0",
    ],
)
def test_impossible_rows_are_refused(database: Database, clock: FakeClock, statement: str) -> None:
    """States and counts that a delivery's life does not know cannot be written by anybody."""
    an_endpoint(database, clock)
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        tx.conn.execute(sa.text(statement))


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "values", ["settled VALUES (99, 9, 'dead', 0, 1, 1.0)", "pending VALUES (99, 9, 0, 0, NULL, NULL, NULL)"]
)
def test_nothing_is_owed_to_nobody(database: Database, values: str) -> None:
    """On SQLite, where it costs little; on PostgreSQL `marzhook db check` looks for it."""
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"), database.write() as tx:
        tx.conn.execute(sa.text(f"INSERT INTO {values}"))


PENDING_KEY = "PRIMARY KEY (endpoint_id=? AND event_id"
EVENTS_KEY = "INTEGER PRIMARY KEY (rowid=?)"


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("query", "values", "wanted"),
    [
        (WINDOW, {"endpoint": 1, "after": 5, "limit": 10}, [PENDING_KEY, EVENTS_KEY]),
        (LOAD, {"endpoint": 1, "ids": "[1]"}, [PENDING_KEY, EVENTS_KEY]),
        (
            FOLLOWING,
            {"endpoint": 1, "lanes": '[["a", 1]]', "limit": 5},
            [PENDING_KEY, "ix_events_username_id (username=? AND id>?)", EVENTS_KEY],
        ),
        (BEHIND, {"cursors": '{"1": 5}'}, [PENDING_KEY]),
        (
            HASTENED,
            {"endpoint": 1, "after": 5, "limit": 10},
            ["ix_pending_hastened (endpoint_id=? AND event_id>?)", EVENTS_KEY],
        ),
        (
            DELETE_SETTLED,
            {"endpoint": 1, "ids": "[1]"},
            [PENDING_KEY],
        ),
    ],
    ids=["window", "load", "following", "behind", "hastened", "settle"],
)
def test_hot_queries_use_their_keys(
    database: Database,
    outbox: Outbox,
    clock: FakeClock,
    query: Statement,
    values: dict[str, Any],
    wanted: list[str],
) -> None:
    """No hot query scans a table of the store or sorts it, however many rows there are or seem to be."""
    an_endpoint(database, clock)
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_created", f"u{i % 10}") for i in range(300)], now=clock.now())
    for _ in range(2):
        with database.read() as conn:
            plan = [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query.sqlite}", values)]
        steps = "\n".join(plan)
        for key in wanted:
            assert any(key in step and step.startswith("SEARCH") for step in plan), steps
        # What is scanned are the given ids or lanes: a table function, not a table. What is owed to an endpoint is never
        # walked through: each search knows the event too.
        scans = [step for step in plan if step.startswith("SCAN")]
        assert all(step.split()[1] in ("j", "lane", "json_each") for step in scans), steps
        assert "(endpoint_id=?)" not in steps, steps
        # The few events that lanes lack are sorted; nothing that grows with the backlog is.
        assert query is FOLLOWING or "TEMP B-TREE" not in steps, steps
        # Once more with statistics: what ANALYZE finds must not change the plan's kind.
        with database.write() as tx:
            tx.conn.execute(sa.text("ANALYZE"))


@pytest.mark.postgresql
@pytest.mark.parametrize("known", ["nothing", "that it was empty", "all"])
def test_hot_queries_use_their_keys_whatever_the_planner_knows(
    database: Database, outbox: Outbox, clock: FakeClock, known: str
) -> None:
    """Behind a backlog that the planner knows nothing of, was told was empty, or knows well, a hot query touches some pages
    for each row that it is asked for, and never the rest of the backlog."""
    assert isinstance(database, PostgreSQLDatabase)
    an_endpoint(database, clock)

    def analyze() -> None:
        with database.write() as tx:
            tx.conn.exec_driver_sql("ANALYZE")

    with database.write() as tx:
        tx.conn.exec_driver_sql("ALTER TABLE pending SET (autovacuum_enabled = off)")
    if known == "that it was empty":
        analyze()
    for start in range(0, 20_000, 5000):
        with database.write() as tx:
            events = [NewEvent("user_updated", f"u{i % 50}") for i in range(start, start + 5000)]
            outbox.publish(tx, events, now=clock.now())
    with database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE pending SET hastened_at = 1 WHERE mod(event_id, 75) = 0")
    if known == "all":
        analyze()
    after, shards = 5000, f"{{{','.join(map(str, range(64)))}}}"
    ids = list(range(after, after + 400, 2))
    queries: list[tuple[Statement, dict[str, Any], int]] = [
        (WINDOW, {"after": after, "limit": 200}, 200),
        (LOAD, {"ids": ids}, 200),
        (FOLLOWING, {"lanes": json.dumps([(f"u{i}", after) for i in range(20)]), "limit": 10}, 200),
        (BEHIND, {"cursors": json.dumps({1: after})}, 1),
        (HASTENED, {"after": after, "limit": 200}, 200),
        (DELETE_SETTLED, {"ids": ids, "first": ids[0], "last": ids[-1]}, 200),
    ]
    for query, values, rows in queries:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query.postgresql}"
        session = writer_engine(database, database.connect) if query is DELETE_SETTLED else None
        with session.begin() if session else database.read(by_key=True) as conn:
            given = {**values, "endpoint": 1, "shards": shards} | (
                {"ids": as_list(conn, ids)} if "ids" in values else {}
            )
            [[plan]] = driver.execute(conn, explain, given).fetchone()
        if session:
            session.dispose()
        plan = plan["Plan"]
        assert plan["Actual Rows"] == rows, plan
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20 + 10 * rows, json.dumps(plan, indent=1)
        assert passed(plan) <= 2 * rows, json.dumps(plan, indent=1)


def passed(plan: dict[str, Any]) -> int:
    """How many rows were looked at for nothing."""
    here = plan.get("Rows Removed by Filter", 0) * plan["Actual Loops"]
    return int(here + sum(map(passed, plan.get("Plans", ()))))
