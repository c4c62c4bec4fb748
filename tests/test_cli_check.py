"""`marzhook check`: what is wrong, and how to mend it."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from command_line import Running, as_json, made, marzhook
from marzhook.store import sources
from marzhook.store.database import Database
from receivers import Receiver
from tls_server import certificate, server_context, tls_receiver


def test_all_well_sends_nothing_unless_asked(tmp_path: Path) -> None:
    """A receiver that can be reached is fine, and gets nothing; with --send it gets one test event, whose answer is shown."""
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": "sesame"}
        assert "All is well" in marzhook(tmp_path, "check", **settings).stdout
        assert receiver.seen() == []
        receiver.do(secret="sesame")
        asked = marzhook(tmp_path, "check", "--send", **settings).stdout
        assert "accepted with 200" in asked
        assert "(plain)" in asked
        assert "sesame" not in asked
        [record] = receiver.seen()
        assert '"marzhook_test"' in record["body"]


def test_a_folder_without_a_database_stays_so(tmp_path: Path) -> None:
    """Before the first start, or in the wrong folder: the addresses are checked, no database is made, and it says so."""
    with Receiver() as receiver:
        checked = marzhook(tmp_path, "check", WEBHOOK_ADDRESS=receiver.url).stdout
        assert f"there is no database at {tmp_path / 'marzhook.db'} yet" in checked
        assert "All is well" in checked
        assert as_json(tmp_path, "check", WEBHOOK_ADDRESS=receiver.url)["database"]["exists"] is False
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_named(tmp_path: Path) -> None:
    """Where there is a database, the check names the key that its backups need, and says so where it is gone."""
    made(tmp_path)
    with Receiver() as receiver:
        checked = marzhook(tmp_path, "check", WEBHOOK_ADDRESS=receiver.url).stdout
        assert f"{tmp_path / 'marzhook.db.key'}; no backup can be used without it" in checked
        (tmp_path / "marzhook.db.key").unlink()
        locked_out = marzhook(tmp_path, "check", expect=2, WEBHOOK_ADDRESS=receiver.url).stderr
    assert "is missing: restore" in locked_out
    assert "docs/reference.md" in locked_out


def test_refusal_is_explained(tmp_path: Path) -> None:
    """A receiver that refuses the test event is exit 1, with what its status means."""
    with Receiver() as receiver:
        receiver.do(status=403)
        checked = marzhook(tmp_path, "check", "--send", expect=1, WEBHOOK_ADDRESS=receiver.url, WEBHOOK_SECRET="x")
        assert "refused with 403" in checked.stdout
        assert "same on both sides" in checked.stdout


def test_nobody_there_is_explained(tmp_path: Path) -> None:
    """A closed port and an unknown name are told apart, each with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"WEBHOOK_ADDRESS": f"http://127.0.0.1:{port}/,http://nobody.invalid/"}
    report = as_json(tmp_path, "check", expect=1, **settings)
    problems = [one["problem"] for one in report["endpoints"]]
    assert "nothing listens" in problems[0]
    assert f"marzhook listen --port {port}" in report["endpoints"][0]["mend"]
    assert problems[1]
    assert "nobody.invalid" in problems[1]


def test_certificates_are_explained(tmp_path: Path) -> None:
    """A self-signed certificate, one for another name, and a port without https are each said in words."""
    right = certificate(tmp_path / "right", "DNS:localhost", days=30)
    other = certificate(tmp_path / "other", "DNS:shop.example", days=5)
    ports = tls_receiver(server_context(*right)), tls_receiver(server_context(*other))
    with ports[0] as port, ports[1] as foreign, Running(tmp_path, "listen", "--port", "0") as plain:
        checked = marzhook(tmp_path, "check", expect=1, WEBHOOK_ADDRESS=f"https://localhost:{port}/")
        assert "self-signed" in checked.stdout
        assert "MARZHOOK_CA_FILE" in checked.stdout
        trusted = {"WEBHOOK_ADDRESS": f"https://localhost:{port}/", "MARZHOOK_CA_FILE": str(right[0])}
        assert "valid until" in marzhook(tmp_path, "check", **trusted).stdout
        named = {"WEBHOOK_ADDRESS": f"https://localhost:{foreign}/", "MARZHOOK_CA_FILE": str(other[0])}
        assert "not for localhost" in marzhook(tmp_path, "check", expect=1, **named).stdout
        address = plain.line("Listening on").split()[2]
        unencrypted = {"WEBHOOK_ADDRESS": address.replace("http:", "https:")}
        assert "does not speak https" in marzhook(tmp_path, "check", expect=1, **unencrypted).stdout


def test_no_endpoint_is_wrong(tmp_path: Path) -> None:
    """Where no endpoint is set, it is exit 1 and the setting is named."""
    assert "WEBHOOK_ADDRESS" in marzhook(tmp_path, "check", expect=1).stdout


def test_a_panel_that_cannot_be_followed_is_something_to_mend(tmp_path: Path) -> None:
    """What the panel says, and what to do; one that is followed or paused is in order."""
    made(tmp_path)
    database = Database.open(f"sqlite:///{tmp_path}/marzhook.db")
    now = datetime(2026, 11, 1, tzinfo=UTC)

    def note(**values: Any) -> None:
        with database.write() as tx:
            sources.note(tx, 1, **values)

    with database.write() as tx:
        sources.create(tx, kind="marzban", url="https://panel.example", username="root", password="p", now=now)
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url}
        assert "its first snapshot was cut off" in marzhook(tmp_path, "check", expect=1, **settings).stdout
        note(snapshot_at=now)
        checked = marzhook(tmp_path, "check", **settings).stdout
        assert "ok   source 1  https://panel.example: followed" in checked
        assert "All is well" in checked
        note(error="https://panel.example refuses this name and password", failing_since=now)
        checked = marzhook(tmp_path, "check", expect=1, **settings).stdout
        assert "BAD  source 1" in checked
        assert "refuses this name and password" in checked
        assert "1 thing to mend" in checked
        report = as_json(tmp_path, "check", expect=1, **settings)
        assert [(one["id"], one["state"], report["ok"]) for one in report["sources"]] == [(1, "failing", False)]
        note(paused=True)
        assert "marzhook source resume 1" in marzhook(tmp_path, "check", **settings).stdout
    database.close()


@pytest.mark.parametrize("name", ["WEBHOOK_ADDRESS", "UVICORN_PORT", "WEBHOOK_SECRET_MODE"])
def test_malformed_setting_is_exit_2(tmp_path: Path, name: str) -> None:
    """A malformed setting is one line that names it."""
    ended = marzhook(tmp_path, "check", expect=2, **{name: "not right"})
    assert name in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_other_settings_than_the_running_service(tmp_path: Path) -> None:
    """Beside a running service it changes nothing, and says where the settings are newer than the service."""
    with Receiver() as receiver, Running(tmp_path, "run", UVICORN_PORT="0", WEBHOOK_ADDRESS=receiver.url) as service:
        service.line("ready")
        checked = marzhook(tmp_path, "check", WEBHOOK_ADDRESS=receiver.url + "new")
        assert "restart it" in checked.stdout
        assert len(as_json(tmp_path, "endpoints", "list")) == 1
