"""`marzhook import marzban`: a panel's users become the registry's, from its file or over its API."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from command_line import as_json, marzhook
from marzhook.store import user_lists
from marzhook.store.database import Database
from marzhook.user import NextPlan, User
from panel_file import make
from receivers import Receiver
from service import Service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a registry is, with one sudo admin of the panel's name."""
    database = Database.open(f"sqlite:///{tmp_path}/marzhook.db")
    database.upgrade()
    from marzhook.store import admins

    with database.write() as tx:
        admins.create(tx, username="root", password_hash="-", is_sudo=True, now=datetime.now(UTC))
    database.close()
    make(tmp_path / "panel.sqlite3")
    return tmp_path


def registered(folder: Path) -> dict[str, User]:
    database = Database.open(f"sqlite:///{folder}/marzhook.db")
    database.upgrade()
    try:
        with database.read() as conn:
            found, _ = user_lists.find(conn, user_lists.UserQuery())
            return {user.username: user for user in found}
    finally:
        database.close()


def panel(folder: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / "panel.sqlite3")) as connection, connection:
        connection.execute(statement, values)


def events(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "marzhook.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])


# -- from the file


def test_a_panels_file_becomes_the_registry(folder: Path) -> None:
    """Everything about the users that the file says is taken over, and nobody is told of it as if it were news."""
    before = events(folder)
    found = as_json(folder, "import", "marzban", "panel.sqlite3")
    assert (found["new"], found["different"], found["same"], found["invalid"]) == (3, 0, 0, [])
    assert found["unknown_admins"] == ["stranger"]
    here = registered(folder)
    alice, bob, carol = here["alice"], here["bob"], here["carol"]
    assert (alice.status, alice.used_traffic, alice.lifetime_used_traffic, alice.data_limit) == (
        "limited",
        1000,
        1340,
        900,
    )
    assert alice.proxies == {"vless": {"id": "u-u-i-d", "flow": ""}, "shadowsocks": {"password": "p", "method": "m"}}
    assert alice.excluded_inbounds == {"vless": [], "shadowsocks": ["Shadowsocks TCP"]}
    assert (alice.expire, alice.note, alice.auto_delete_in_days) == (1900000000, "from the shop", 5)
    assert alice.created_at == datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert alice.traffic_reset_at == datetime(2026, 1, 20, tzinfo=UTC)
    assert alice.status_changed_at == datetime(2026, 2, 2, 2, 2, 2, tzinfo=UTC)
    assert alice.next_plan == NextPlan(7000, 2592000, False, True)
    assert alice.admin is not None
    assert alice.admin.username == "root"
    assert (bob.status, bob.used_traffic, bob.data_limit, bob.expire, bob.admin) == ("active", 0, None, None, None)
    assert (carol.status, carol.on_hold_expire_duration, carol.admin) == ("on_hold", 86400, None)
    assert carol.on_hold_timeout == datetime(2030, 1, 1, tzinfo=UTC)
    assert events(folder) == before


def test_the_same_again_changes_nothing(folder: Path) -> None:
    """Whoever is not sure whether it went through runs it again, with --update as well."""
    marzhook(folder, "import", "marzban", "panel.sqlite3")
    first = registered(folder)
    for options in ((), ("--update",), ("--update", "--dry-run")):
        found = as_json(folder, "import", "marzban", "panel.sqlite3", *options)
        assert (found["new"], found["different"], found["same"]) == (0, 0, 3)
    assert registered(folder) == first


def test_a_dry_run_shows_what_differs_and_changes_nothing(folder: Path) -> None:
    """One sees what would happen, field by field, without credentials."""
    said = marzhook(folder, "import", "marzban", "panel.sqlite3", "--dry-run").stdout
    assert "3 users would be added, 0 are the same." in said
    assert registered(folder) == {}
    marzhook(folder, "import", "marzban", "panel.sqlite3")
    panel(folder, "UPDATE users SET note = 'paid twice', used_traffic = 1200 WHERE username = 'alice'")
    panel(folder, "UPDATE proxies SET settings = ? WHERE id = 1", json.dumps({"id": "n-e-w", "flow": ""}))
    before = registered(folder)
    found = as_json(folder, "import", "marzban", "panel.sqlite3", "--dry-run")
    assert found["differences"] == [
        {"username": "alice", "proxies": ["…", "…"], "note": ["from the shop", "paid twice"], "used_traffic": [1000, 1200],
         "lifetime_used_traffic": [1340, 1540]}
    ]  # fmt: skip
    said = marzhook(folder, "import", "marzban", "panel.sqlite3", "--dry-run", COLUMNS="200").stdout
    assert "from the shop -> paid twice" in said
    assert "n-e-w" not in said
    assert "u-u-i-d" not in said
    assert registered(folder) == before


def test_who_is_here_already_is_changed_only_when_that_is_wanted(folder: Path) -> None:
    """The registry knows better what happened since, unless the operator says otherwise; what the panel's file does not
    know stays."""
    marzhook(folder, "import", "marzban", "panel.sqlite3")
    panel(
        folder,
        "UPDATE users SET note = NULL, expire = NULL, status = 'active', data_limit = NULL WHERE username = 'alice'",
    )
    panel(folder, "UPDATE users SET username = 'BOB' WHERE id = 2")
    before = registered(folder)
    said = marzhook(folder, "import", "marzban", "panel.sqlite3").stdout
    assert "Left as it is here: 1 user who differs; --update takes the panel's values." in said
    assert registered(folder) == before
    assert as_json(folder, "import", "marzban", "panel.sqlite3", "--update")["different"] == 1
    after = registered(folder)
    assert (after["alice"].status, after["alice"].note, after["alice"].expire, after["alice"].data_limit) == (
        "active", None, None, None,
    )  # fmt: skip
    assert after["bob"] == before["bob"]
    assert as_json(folder, "import", "marzban", "panel.sqlite3")["same"] == 3


def test_an_owner_who_is_made_later_gets_his_users(folder: Path) -> None:
    """Run again after the admin was made, with --update."""
    marzhook(folder, "import", "marzban", "panel.sqlite3")
    panel(folder, "UPDATE users SET admin_id = 1 WHERE username = 'carol'")
    found = as_json(folder, "import", "marzban", "panel.sqlite3", "--update")
    assert found["differences"] == [{"username": "carol", "admin": [None, "root"]}]
    owner = registered(folder)["carol"].admin
    assert owner is not None
    assert owner.username == "root"


def test_a_user_who_cannot_be_taken_over_stops_nobody(folder: Path) -> None:
    """What is wrong with him is said, and the others are there."""
    panel(folder, "UPDATE users SET status = 'frozen', used_traffic = -5 WHERE username = 'bob'")
    panel(folder, "UPDATE users SET username = 'no spaces, please' WHERE username = 'carol'")
    found = as_json(folder, "import", "marzban", "panel.sqlite3")
    assert found["new"] == 1
    reasons = {one["username"]: one["reason"] for one in found["invalid"]}
    assert "status: must be one of active" in reasons["bob"]
    assert "used_traffic: must be" in reasons["bob"]
    assert "3 to 32 characters" in reasons["no spaces, please"]
    assert list(registered(folder)) == ["alice"]


@pytest.mark.parametrize(("name", "code"), [("missing.sqlite3", 2), ("marzhook.db", 1), ("text", 1)])
def test_another_file_is_refused(folder: Path, name: str, code: int) -> None:
    """A wrong file is named as such, and nothing happens to it."""
    (folder / "text").write_text("not a database, whatever its name says" * 100)
    said = marzhook(folder, "import", "marzban", name, expect=code).stderr
    assert "name the panel's db.sqlite3" in said or "name its db.sqlite3" in said
    assert not (folder / "missing.sqlite3").exists()


# -- over the API


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A panel: another Marzhook, which speaks the panel's API."""
    with Service(tmp_path_factory.mktemp("panel")) as service:
        yield service
        service.stop()


def test_a_panels_api_becomes_the_registry(folder: Path, source: Service) -> None:
    """Page by page over HTTP, next to a running service, which goes on from there: what happens now is told."""
    for n in range(7):
        body = {
            "username": f"user{n}",
            "proxies": {"vless": {}},
            "data_limit": 1000,
            "note": f"n{n}",
            "expire": 1900000000,
        }
        assert source.call("POST", "/api/user", body)[0] == 200
    source.call("POST", "/api/v1/usage", [{"username": "user3", "bytes": 600}])
    url = f"http://127.0.0.1:{source.port}"
    login = {"PANEL_PASSWORD": "toor-toor"}
    with Receiver() as receiver, Service(folder, WEBHOOK_ADDRESS=receiver.url) as service:
        found = as_json(folder, "import", "marzban", url, "--username", "root", **login)
        assert (found["new"], found["unknown_admins"]) == (7, [])
        for n in range(7):
            _, theirs = source.call("GET", f"/api/user/user{n}")
            _, ours = service.call("GET", f"/api/user/user{n}")
            del theirs["admin"], ours["admin"]
            assert ours == theirs
        assert as_json(folder, "import", "marzban", url, "--username", "root", "--update", **login)["same"] == 7
        assert receiver.seen() == []
        service.call("POST", "/api/v1/usage", [{"username": "user3", "bytes": 500}])
        told = [json.loads(record["body"]) for record in receiver.wait(1)]
        assert ("user_limited", "user3") in [(event["action"], event["username"]) for event in told]
        service.stop()


def test_pages_are_put_together(folder: Path, source: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users there are, all of them come, each once."""
    from marzhook.sources import marzban_api, marzban_file

    monkeypatch.setattr(marzban_api, "PAGE", 3)
    monkeypatch.setattr(marzban_file, "PAGE", 2)
    for n in range(7):
        source.call("POST", "/api/user", {"username": f"user{n}", "proxies": {}})
    url = f"http://127.0.0.1:{source.port}"
    assert as_json(folder, "import", "marzban", url, "--username", "root", PANEL_PASSWORD="toor-toor")["new"] == 7
    assert as_json(folder, "import", "marzban", "panel.sqlite3")["new"] == 3
    assert len(registered(folder)) == 10


def test_a_panel_that_does_not_answer_is_named(folder: Path, source: Service) -> None:
    """Wrong password, wrong address, nobody there: one line, exit code 1, and no password in it."""
    url = f"http://127.0.0.1:{source.port}"
    arguments = ("--username", "root")
    said = marzhook(folder, "import", "marzban", url, *arguments, expect=1, PANEL_PASSWORD="hunter2-hunter2").stderr
    assert "refuses this name and password" in said
    assert "hunter2" not in said
    said = marzhook(folder, "import", "marzban", f"{url}/elsewhere", *arguments, expect=1, PANEL_PASSWORD="x").stderr
    assert "answered 404 to /api/admin/token" in said
    said = marzhook(folder, "import", "marzban", "http://127.0.0.1:9", *arguments, expect=1, PANEL_PASSWORD="x").stderr
    assert "cannot be reached" in said
    said = marzhook(folder, "import", "marzban", "ftp://x/", *arguments, expect=2, PANEL_PASSWORD="x").stderr
    assert "looks like https://" in said


def test_a_redirect_does_not_get_the_password(folder: Path) -> None:
    """Whoever answers for the panel cannot send the login elsewhere."""
    with Receiver() as other, Receiver() as panel:
        for status in (301, 302, 307, 308):
            panel.do(status=status, headers={"Location": other.url})
            arguments = ("import", "marzban", panel.url, "--username", "root")
            said = marzhook(folder, *arguments, expect=1, PANEL_PASSWORD="secret").stderr
            assert f"answered {status}" in said
        assert other.seen() == []
