"""One `marzhook run` as the panel, another that follows it: real processes, killed where it hurts."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from marzhook.testing import eventually
from receivers import Receiver, events_of, header_of
from service import Service, marzhook


@contextmanager
def around(folder: Path) -> Iterator[tuple[Receiver, Service, Path, dict[str, str]]]:
    """Who is told, the panel that is followed, and of the service that follows it the folder and the settings."""
    here, there = folder / "here", folder / "there"
    here.mkdir()
    there.mkdir()
    with Receiver() as receiver, Service(there) as panel:
        yield receiver, panel, here, {"MARZHOOK_POLL_INTERVAL": "0.05", "WEBHOOK_ADDRESS": receiver.url}


def change(panel: Service, note: str) -> None:
    status, _ = panel.call("PUT", "/api/user/ann", {"note": note})
    assert status == 200


def test_a_running_service_follows_another_one(tmp_path: Path) -> None:
    """The command adds it beside the running service; each change is one event, also when the follower is killed before and
    after the commit that tells it, and what happens while either is down is told later."""
    with around(tmp_path) as (receiver, panel, here, settings):
        assert panel.call("POST", "/api/user", {"username": "ann", "proxies": {"vless": {}}})[0] == 200
        with Service(here, **settings) as service:
            url = f"http://127.0.0.1:{panel.port}"
            added = marzhook(
                here, "source", "add", "marzban", url, "--username", "root", PANEL_PASSWORD="toor-toor", **settings
            )
            assert added.returncode == 0, added.stderr
            assert "1 user in its first snapshot" in added.stdout
            change(panel, "first")
            assert told(receiver, 1) == [("user_updated", "first")]
            assert service.stop() == 0
        change(panel, "while nobody looked")
        for point in ("poll.before_commit:1", "poll.after_commit:1"):
            with Service(here, point=point, **settings) as service:
                assert service.end() == -signal.SIGKILL
        with Service(here, **settings) as service:
            assert told(receiver, 2)[-1] == ("user_updated", "while nobody looked")
            change(panel, "second")
            notes = [note for _, note in told(receiver, 3)]
            assert notes == ["first", "while nobody looked", "second"]
            listed = marzhook(here, "source", "list", **settings).stdout
            assert "followed" in listed
            assert "toor" not in listed
            assert service.stop() == 0


def test_a_followed_panel_gets_a_new_login(tmp_path: Path) -> None:
    """Its password was changed: adding it once more stores the new one, where the panel takes it, beside the running service;
    what changed while the old one was refused is told, and so is whatever comes then."""
    with around(tmp_path) as (receiver, panel, here, settings):
        url = f"http://127.0.0.1:{panel.port}"

        def add(password: str) -> subprocess.CompletedProcess[str]:
            return marzhook(
                here, "source", "add", "marzban", url, "--username", "root", PANEL_PASSWORD=password, **settings
            )

        assert panel.call("POST", "/api/user", {"username": "ann", "proxies": {"vless": {}}})[0] == 200
        with Service(here, **settings) as service:
            assert add("toor-toor").returncode == 0
            change(panel, "first")
            told(receiver, 1)
            change(panel, "with the old password")
            assert panel.call("PUT", "/api/admin/root", {"password": "new-new-new", "is_sudo": True})[0] == 200
            panel.log_in("new-new-new")
            eventually(lambda: "refuses" in marzhook(here, "source", "list", "--json", **settings).stdout, timeout=30)
            change(panel, "unseen")
            wrong = add("toor-toor")
            assert wrong.returncode == 1
            assert "refuses this name and password" in wrong.stderr
            right = add("new-new-new")
            assert right.returncode == 0, right.stderr
            assert "Source 1 is followed already, and from now on with this login" in " ".join(right.stdout.split())
            eventually(lambda: told(receiver, 2)[-1] == ("user_updated", "unseen"), timeout=30)
            change(panel, "last")
            eventually(lambda: told(receiver, 2)[-1] == ("user_updated", "last"), timeout=30)
            assert service.stop() == 0


@pytest.mark.parametrize("sudo", [True, False])
def test_a_login_that_does_not_see_all_is_warned_of(tmp_path: Path, sudo: bool) -> None:
    """The panel shows an admin his own users, without a word of the others; also where a sudo admin's login is replaced."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with Service(there) as panel, Service(here):
        admin = {"username": "shop", "password": "shop-shop", "is_sudo": sudo}
        assert panel.call("POST", "/api/admin", admin)[0] == 200
        url = f"http://127.0.0.1:{panel.port}"
        for _ in range(2):
            added = marzhook(here, "source", "add", "marzban", url, "--username", "shop", PANEL_PASSWORD="shop-shop")
            assert added.returncode == 0, added.stderr
            assert ("not a sudo admin of the panel" in " ".join(added.stderr.split())) is not sudo


def told(receiver: Receiver, count: int) -> list[tuple[str, Any]]:
    """What has arrived, each event once, when there are `count` of them."""

    def found() -> dict[str | None, dict[str, Any]]:
        return {header_of(record, "webhook-id"): events_of(record["body"])[0] for record in receiver.seen()}

    eventually(lambda: len(found()) >= count, timeout=30, what=f"event number {count}")
    return [(event["action"], event["user"]["note"]) for event in found().values()]
