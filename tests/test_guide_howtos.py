"""docs/destinations.md: its settings, commands, templates, query and script do what the page says of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from command_line import as_json, made, marzhook
from examples import blocks
from marzhook.destinations.telegram import Telegram
from marzhook.destinations.template import Template
from marzhook.request import Rows
from marzhook.transport.tables import write

PAGE, PERSIAN = "docs/destinations.md", "docs/fa/destinations.md"
USER = {"deleted": False, "status": "active", "used_traffic": 90, "data_limit": 100}


@pytest.mark.parametrize("language", ["ini", "sh", "bash", "sql", "jinja"])
def test_the_persian_page_shows_the_same(language: str) -> None:
    """What is tried here is what it shows."""
    assert blocks(PERSIAN, language) == blocks(PAGE, language)
    assert blocks(PAGE, language)


def test_its_settings_are_understood_together(tmp_path: Path) -> None:
    """All of them in one .env, each shown as taken from there."""
    names = {line.split(" = ")[0] for block in blocks(PAGE, "ini") for line in block.splitlines()}
    (tmp_path / ".env").write_text("".join(blocks(PAGE, "ini")))
    shown = {one["name"]: one for one in as_json(tmp_path, "config")["settings"]}
    assert len(names) > 8
    assert all(shown[name]["source"].startswith(".env line ") for name in names)


def test_its_commands_are_understood(tmp_path: Path) -> None:
    """Typed into a shell one after the other they make, change and try endpoints."""
    made(tmp_path)
    template = blocks(PAGE, "jinja")[1]
    (tmp_path / "body.jinja").write_text(template)
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith("marzhook ")]
    marzhook(tmp_path, "endpoints", "create", "https://example.com/hook")
    for number in range(42):
        marzhook(tmp_path, "send", "user_limited", f"vip_{number}")
    for line in lines:
        split = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
        arguments = split.stdout.split("\0")[1:-1]
        told = marzhook(tmp_path, *arguments).stdout
        assert "try" not in arguments or "its condition" in told.lower() or "filter" in told.lower(), told
    shown = as_json(tmp_path, "endpoints", "list")
    assert [one["kind"] for one in shown] == ["webhook", "alert", "sql"]


def test_its_templates_make_what_they_say() -> None:
    """The first is one of Telegram's, the second makes JSON."""
    telegram, body = blocks(PAGE, "jinja")
    assert Telegram.checked_options({"chat": 5, "templates": {"*": telegram}})
    event = {"username": 'a"b', "action": "user_limited", "user": {"used_traffic": 1 << 30}}
    assert json.loads(Template(body).render(event)) == {"text": 'a"b: user_limited', "used": "1.0 GB"}


def test_its_query_finds_who_is_near_the_limit(tmp_path: Path) -> None:
    """In the tables that Marzhook makes."""
    url = f"sqlite:///{tmp_path}/users.db"
    rows = [
        {"id": f"msg_i_{n}", "number": n, "action": "user_updated", "username": f"u{n}", "enqueued_at": 1.0, "detail": None,
         "user": {**USER, **changed}}
        for n, changed in enumerate([{}, {"used_traffic": 95}, {"deleted": True}, {"status": "expired"}, {"data_limit": 0}])
    ]  # fmt: skip
    assert write(Rows(url, "", tuple(map(json.dumps, rows))), 5.0) == (0, None, "")
    [query] = blocks(PAGE, "sql")
    engine = sa.create_engine(url)
    with engine.connect() as conn:
        assert [tuple(row) for row in conn.execute(sa.text(query))] == [("u1", 95), ("u0", 90)]
    engine.dispose()


def test_its_script_keeps_the_list(tmp_path: Path) -> None:
    """Of those two actions, whatever a name looks like, and ends well for all others."""
    [text] = blocks(PAGE, "bash")
    script = tmp_path / "told"
    script.write_text(text.replace("/var/lib/marzhook", str(tmp_path)))
    script.chmod(0o755)
    for action, name in (("user_expired", "a b'; $(id)"), ("user_created", "carol"), ("user_limited", "bob")):
        environment = {**os.environ, "MARZHOOK_EVENT_ACTION": action, "MARZHOOK_EVENT_USERNAME": name}
        subprocess.run([str(script)], env=environment, input=b"{}", check=True, timeout=10)
    assert (tmp_path / "told.log").read_text() == "user_expired a b'; $(id)\nuser_limited bob\n"
