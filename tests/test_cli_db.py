"""`marzhook db`: a database is upgraded and checked, and what is wrong with it is told with what to do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from command_line import as_json, marzhook
from conftest import SECRET_KEY
from histories import World
from marzhook.delivery import DEAD, DELIVERED
from marzhook.store import integrity, migrations
from marzhook.store.database import Database
from marzhook.store.driver import Statement
from marzhook.testing import FakeClock
from postgresql import Server

HEAD = migrations.revisions()[-1]
Check = Callable[..., dict[str, Any]]


@pytest.fixture
def check(tmp_path: Path, database_settings: dict[str, str]) -> Check:
    return lambda expect=0: as_json(tmp_path, "db", "check", expect=expect, **database_settings)


def sql(database: Database, *statements: str) -> None:
    """By somebody's hand, who asks nobody. On SQLite without the foreign keys."""
    with database.write() as tx:
        for statement in statements:
            tx.conn.exec_driver_sql(statement)


# -- migrate


def test_migrate_tells_from_what_to_what(database: Database, database_settings: dict[str, str], tmp_path: Path) -> None:
    """What has this version's schema already stays as it is."""
    assert as_json(tmp_path, "db", "migrate", **database_settings) == {
        "database": database.name,
        "from": HEAD,
        "to": HEAD,
    }
    assert f"already: {HEAD}" in marzhook(tmp_path, "db", "migrate", **database_settings).stdout


def test_migrate_fills_an_empty_server_and_makes_no_file(postgresql: Server, tmp_path: Path) -> None:
    """A PostgreSQL database that somebody has made gets its tables; in a folder without a file none is made."""
    with postgresql.database() as name:
        settings = {"MARZHOOK_DATABASE_URL": postgresql.url(name), "MARZHOOK_SECRET_KEY": SECRET_KEY}
        checked = marzhook(tmp_path, "db", "check", expect=1, **settings).stdout
        assert "is empty\n     `marzhook db migrate`" in checked
        assert f"was empty, and now has the schema {HEAD}" in marzhook(tmp_path, "db", "migrate", **settings).stdout
        assert "All is well" in marzhook(tmp_path, "db", "check", **settings).stdout
    assert "there is no database at" in marzhook(tmp_path, "db", "migrate", expect=2).stderr
    assert not (tmp_path / "marzhook.db").exists()


# -- check


def test_a_whole_database_is_well(
    database: Database, clock: FakeClock, check: Check, database_settings: dict[str, str], tmp_path: Path
) -> None:
    """Owed, delivered and dead: rows are counted, nothing is wrong, nothing changes."""
    world = World(database, clock)
    world.live(5)
    world.live(3, DEAD)
    world.publish(4)
    told = check()
    assert told["ok"] is True
    assert told["problems"] == []
    assert told["rows"] == {
        "users": 0, "events": 12, "pending": 8, "settled": 16, "attempts": 16, "endpoints": 2, "admins": 0,
    }  # fmt: skip
    assert (told["schema"], told["service"]) == (HEAD, None)
    shown = marzhook(tmp_path, "db", "check", **database_settings).stdout
    assert "8 pending, 16 settled" in shown
    assert "All is well." in shown


@pytest.mark.parametrize(
    ("breaks", "code"),
    [
        ("INSERT INTO pending (endpoint_id, event_id) SELECT endpoint_id, event_id FROM settled", "owed_and_settled"),
        ("DELETE FROM events WHERE id IN (SELECT event_id FROM pending)", "owed_without_event"),
        ("DELETE FROM events WHERE id IN (SELECT event_id FROM settled)", "settled_without_event"),
        ("DELETE FROM settled", "attempt_without_delivery"),
        (
            "INSERT INTO users (username, username_key, status, proxies, inbounds, excluded_inbounds, links,"
            " subscription_url, data_limit_reset_strategy, created_at)"
            " VALUES ('u', 'u', 'active', '{}', '{}', '{}', '[]', '', 'no_reset', 1.0)",
            "user_without_counters",
        ),
        ("UPDATE endpoints SET signing_secret = 'v1:AAAA' WHERE id = 1", "secret_unreadable"),
        ("UPDATE meta SET value = 'v1:AAAA' WHERE key = 'token_key'", "secret_unreadable"),
    ],
    ids=lambda value: value if " " not in value else "",
)
def test_what_does_not_belong_together_is_found(
    database: Database, clock: FakeClock, check: Check, breaks: str, code: str
) -> None:
    """Each kind of row that no whole database has is counted, and exit code 1 says so."""
    world = World(database, clock)
    world.live(5, DELIVERED)
    world.publish(2)
    sql(database, breaks)
    told = check(expect=1)
    assert told["ok"] is False
    [problem] = told["problems"]
    assert problem["code"] == code
    assert problem["problem"]
    assert problem["mend"]


def test_the_told_mend_mends(database: Database, clock: FakeClock, check: Check, backend: str) -> None:
    """Ids that would be given again, as after a dump that was restored by halves: the statement that is told sets it right."""
    World(database, clock).publish(5)
    sql(
        database,
        "SELECT setval('events_id_seq', 2)"
        if backend == "postgresql"
        else "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'events'",
    )
    [problem] = check(expect=1)["problems"]
    assert problem["code"] == "ids_repeat"
    sql(database, problem["mend"])
    assert check()["ok"]


@pytest.mark.postgresql
def test_an_invalid_index_is_found(database: Database, check: Check) -> None:
    """PostgreSQL leaves one behind where its making was cut off, and uses it no more."""
    sql(database, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_events_username_id'::regclass")
    [problem] = check(expect=1)["problems"]
    assert (problem["code"], problem["mend"]) == ("index_invalid", "REINDEX INDEX ix_events_username_id;")
    with database.write() as tx:
        tx.conn.exec_driver_sql(problem["mend"])
    assert check()["ok"]


@pytest.mark.sqlite
def test_a_damaged_file_is_found(database: Database, clock: FakeClock, check: Check, tmp_path: Path) -> None:
    """A page that was overwritten on the disk; and rows that refer to what is gone."""
    World(database, clock).live(400)
    database.close()
    path = Path(database.name)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [root] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_events_username_id'"
        ).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    assert {one["code"] for one in check(expect=1)["problems"]} & {"damaged", "database_unusable"}


def test_broken_references_are_found(database: Database, clock: FakeClock, check: Check) -> None:
    """Rows that a program without foreign keys has left, or on PostgreSQL, where there are none, anybody."""
    World(database, clock).publish(3)
    if database.kind == "PostgreSQL":
        sql(database, "DELETE FROM endpoints WHERE id = 1")
    else:
        with closing(sqlite3.connect(database.name)) as connection:
            connection.execute("DELETE FROM endpoints WHERE id = 1")
            connection.commit()
    [problem] = check(expect=1)["problems"]
    assert problem["code"] == "reference_broken"
    assert problem["problem"] == "3 rows of pending refer to what is gone"


@pytest.mark.sqlite
def test_a_lost_key_is_found(database: Database, tmp_path: Path) -> None:
    """Without the key nothing can be sent: it says where the key was, and what can be done."""
    (tmp_path / "marzhook.db.key").unlink()
    [problem] = json.loads(marzhook(tmp_path, "db", "check", "--json", expect=1).stdout)["problems"]
    assert problem["code"] == "secret_key_missing"
    assert str(tmp_path / "marzhook.db.key") in problem["problem"]


@pytest.mark.postgresql
def test_a_check_may_take_longer_than_the_server_allows_a_statement(
    database: Database, database_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Managed servers often end what takes seconds; a check of a large database takes minutes."""
    slow = integrity.Rule("slow", Statement("SELECT 0", "SELECT 7 FROM pg_sleep(0.8)"), "are slow", "wait")
    monkeypatch.setattr(integrity, "RULES", (slow,))
    url = f"{database_settings['MARZHOOK_DATABASE_URL']}&options=-c%20statement_timeout%3D500"
    with closing(Database.open(url, secret_keys=[SECRET_KEY])) as impatient:
        assert [one.code for one in integrity.findings(impatient)] == ["slow"]
