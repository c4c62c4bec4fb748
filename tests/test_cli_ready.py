"""`marzhook check` on what is no HTTP request: databases, commands and alerts, tried without leaving a trace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from command_line import as_json
from marzhook.request import Rows
from marzhook.transport.tables import write
from postgresql import Server


def checked(folder: Path, url: str, *, kind: str = "SQL_URL", expect: int = 0, **settings: str) -> dict[str, Any]:
    """What `marzhook check` says of the one endpoint that there is."""
    [endpoint] = as_json(folder, "check", expect=expect, **{f"MARZHOOK_{kind}": url}, **settings)["endpoints"]
    return dict(endpoint)


def test_a_database_is_tried_and_left_as_it_was(postgresql: Server, tmp_path: Path) -> None:
    """The tables are made, written and taken back; where they are there already, the same with their rows."""
    with postgresql.database() as name:
        url = postgresql.url(name)
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        assert checked(tmp_path, url)["problem"] is None
        assert sa.inspect(engine).get_table_names() == []
        assert write(Rows(url, "", ()), 5.0)[0] == 0
        assert checked(tmp_path, url)["problem"] is None
        with engine.connect() as conn:
            assert conn.execute(sa.text("SELECT count(*) FROM events")).scalar() == 0
        engine.dispose()


def test_a_file_is_not_made_before_its_first_event(tmp_path: Path) -> None:
    """SQLite would make one at a look; one that is there is written to, and that taken back."""
    path = tmp_path / "users.db"
    url = f"sqlite:///{path}"
    assert checked(tmp_path, url)["problem"] is None
    assert not path.exists()
    assert write(Rows(url, "two_", ()), 5.0)[0] == 0
    for _ in range(2):
        assert checked(tmp_path, url)["problem"] is None
    engine = sa.create_engine(url)
    assert sorted(sa.inspect(engine).get_table_names()) == ["two_events", "two_users"]
    engine.dispose()


def test_what_keeps_a_database_from_being_written_is_explained(tmp_path: Path) -> None:
    """In memory, no folder, somebody else's table, another's lock, no database at all, no server: each with what to do."""

    def told(url: str, **settings: str) -> tuple[str, str]:
        found = checked(tmp_path, url, expect=1, **settings)
        assert "hush" not in str(found)
        return found["problem"], found["mend"]

    assert "in memory" in told("sqlite:///:memory:")[0]
    assert told(f"sqlite:///{tmp_path}/missing/users.db")[0] == f"there is no folder {tmp_path}/missing"
    engine = sa.create_engine(f"sqlite:///{tmp_path}/theirs.db")
    with engine.begin() as conn:
        conn.execute(sa.text("CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT)"))
    problem, mend = told(f"sqlite:///{tmp_path}/theirs.db")
    assert problem == "its table users is somebody else's: it has no column status"
    assert '{"prefix": "marzhook_"}' in mend
    with engine.connect() as conn:
        conn.exec_driver_sql("BEGIN EXCLUSIVE")
        problem, mend = told(f"sqlite:///{tmp_path}/theirs.db", MARZHOOK_CONNECT_TIMEOUT="0.1")
        assert problem == "the database refused it: OperationalError"
    engine.dispose()
    (tmp_path / "text.db").write_text("no database, but long enough to be read as one " * 30)
    assert told(f"sqlite:///{tmp_path}/text.db")[0] == "the database refused it: DatabaseError"
    assert told("postgresql://u:hush@nobody.invalid/d")[0] == "there is no machine named nobody.invalid"
    assert told("postgresql://u:hush@127.0.0.1:1/d") == (
        "nothing listens on 127.0.0.1 port 1", "Start the database's server, or correct the port in the URL.",
    )  # fmt: skip
    assert told("mysql+nodriver://u:hush@/d")[1].startswith("Write it like postgresql://")


def test_what_a_server_refuses_is_explained(postgresql: Server, tmp_path: Path) -> None:
    """A database that is not there is one thing, what its user may not do in it another."""
    with postgresql.database() as name:
        found = checked(tmp_path, postgresql.url(f"no_{name}"), expect=1)
        assert found["mend"] == "Check user, password and database in the URL."
        postgresql.sql("CREATE ROLE reader LOGIN")
        url = sa.make_url(postgresql.url(name)).set(username="reader").render_as_string(hide_password=False)
        found = checked(tmp_path, url, expect=1)
        postgresql.sql("DROP ROLE reader")
    assert found["problem"] == "the database refused it: InsufficientPrivilege"
    assert found["mend"] == "Let its user read, write and create tables there."


@pytest.mark.parametrize(
    ("text", "mode", "problem", "mend"),
    [
        ("#!/bin/sh\n", 0o755, None, None),
        ("#! /usr/bin/env\tpython3\n", 0o755, None, None),
        ("#!/bin/sh\n", 0o644, "cannot be run by this user", "chmod +x"),
        ("#!/bin/sh\r\n", 0o755, "'/bin/sh\\r', and there is no such program", "Windows"),
        ("#!/usr/bin/no-python\n", 0o755, "there is no such program", "first line"),
        (None, 0, "there is no program", "install it"),
    ],
)
def test_commands_are_looked_at_and_not_run(
    tmp_path: Path, text: str | None, mode: int, problem: str | None, mend: str | None
) -> None:
    """Whether there is such a program, whether it can be run, and who is to read it if it is a script."""
    program = tmp_path / "told"
    if text is not None:
        program.write_text(text, newline="")
        os.chmod(program, mode)
    found = checked(
        tmp_path,
        f"{program} --now",
        kind="EXEC_COMMAND",
        expect=0 if problem is None else 1,
        MARZHOOK_EXEC_ALLOW=str(tmp_path),
    )
    assert (found["problem"] is None) == (problem is None)
    assert problem is None or problem in found["problem"]
    assert mend is None or mend in found["mend"]


def test_alerts_are_understood_or_not(tmp_path: Path) -> None:
    """Apprise itself says so, and nothing is sent."""
    assert checked(tmp_path, "json://127.0.0.1:1/hush", kind="ALERT_URLS")["problem"] is None
    for url in ("nosuch://hush", "tgram://hush"):
        found = checked(tmp_path, url, kind="ALERT_URLS", expect=1)
        assert found["problem"] == "Apprise does not understand this URL"
        assert "hush" not in str(found)
