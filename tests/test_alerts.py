"""Alerts through the real Apprise, on loopback; and who may make endpoints that no guard watches."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from api_client import Api
from command_line import as_json, made, marzhook
from dispatching import House
from marzhook import request as carried
from marzhook.delivery import Delivery
from marzhook.destinations.alert import Alert
from marzhook.dispatch.limits import Limits
from marzhook.dispatch.sender import Sender
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError
from marzhook.event import Event, detail_json
from marzhook.request import Job
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock
from marzhook.transport.alerts import MISSING, alert
from marzhook.transport.local import GRACE, LocalTransport
from receivers import Receiver
from service import Service

pytest_plugins = ["api_client"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "hush-t0ken-of-a-service"


def work(url: str, **options: Any) -> carried.Alert:
    target = Alert(Endpoint(1, "x", "alert", url, options=options), instance="i")
    one = Event(1, "user_expired", "alice", 1680506457.5, detail_json({"user": {"status": "expired"}}))
    job = target.request([target.item(Delivery(1, one), NOW)], [1], NOW, mode="plain")
    assert isinstance(job, Job)
    assert isinstance(job.work, carried.Alert)
    return job.work


def told(message: carried.Alert) -> tuple[int, str | None, str]:
    return alert(message, 15.0, lambda seconds, pause: None)


def test_an_alert_arrives(receiver: Receiver) -> None:
    """In the language that was chosen, with a title and the facts."""
    address = receiver.url.removeprefix("http://").rstrip("/")
    assert told(work(f"json://{address}/{TOKEN}", language="ru")) == (0, None, "")
    body = json.loads(receiver.wait(1)[0]["body"])
    assert body["title"] == "🕔 Срок пользователя истёк"
    assert "alice" in body["message"]
    assert "истёк" in body["message"]


def test_a_service_that_refuses_says_so_without_the_url() -> None:
    """Apprise's URLs are full of tokens."""
    status, error, message = told(work(f"json://user:{TOKEN}@127.0.0.1:1/{TOKEN}"))
    assert (status, error) == (1, "other")
    assert "could not deliver" in message
    assert TOKEN not in message
    assert told(work(f"nosuch://{TOKEN}"))[2] == "Apprise does not understand this URL"


@pytest.mark.parametrize("status", [200, 500])
def test_a_burst_keeps_to_what_the_service_wants(
    database: Database,
    outbox: Outbox,
    clock: FakeClock,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    """Five alerts to one that Apprise gives 1.2 seconds from one to the next, whatever it answers; on the test's clock."""
    monkeypatch.setattr("apprise.plugins.custom_json.NotifyJSON.request_rate_per_sec", 1.2)
    receiver.do(status=status)
    house = House(database, outbox)
    endpoint = house.endpoint(receiver.url.replace("http", "json"), kind="alert")
    house.publish([f"user{n}" for n in range(5)])
    one = Sender(house.load(endpoint.id), outbox, clock, instance="x", limits=Limits(), random=lambda: 0.5)
    ended = threading.Event()
    local = LocalTransport(clock, ended.set)
    sent: list[float] = []
    while len(sent) < 5:
        one.refill()
        while one.room(clock.monotonic()):
            shipment, job = one.ship()
            assert isinstance(job, Job)
            sent.append(clock.monotonic())
            local.send(job, shipment)
            assert ended.wait(10)
            ended.clear()
            [(_, response)] = local.finished()
            one.lanes.committed([s.delivery.event.id for s in one.answered(shipment, response).settlements])
        clock.advance(0.1)
    assert len(receiver.wait(5)) == 5
    assert all(later - earlier >= 1.2 for earlier, later in pairwise(sent)), sent


def test_each_recipient_of_a_url_has_its_time(
    clock: FakeClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apprise tells one after the other: given up before the last one, it would tell all of them once more. One that hangs
    for longer than all may take is given up, and left alone for as long as after an answer."""
    monkeypatch.setattr("apprise.plugins.ntfy.NotifyNtfy.request_rate_per_sec", 0.01)
    receiver.do(hold=True)
    ended = threading.Event()
    local = LocalTransport(clock, ended.set)
    four = receiver.url.replace("http", "ntfy") + "one/two/three/four"
    local.send(Job(1, work(four), 15.0), "all")
    receiver.wait(1)
    clock.advance(15.0 + GRACE + 1)
    assert local.finished() == []
    assert local.timeout() == pytest.approx(3 * 15.0 + 3 * 0.01 - 1)
    clock.advance(local.timeout())
    [(token, response)] = local.finished()
    assert (token, response.error, response.pause) == ("all", "timeout", 0.01)
    receiver.do(status=200)
    assert ended.wait(10)
    assert len(receiver.seen()) == 4


def test_more_recipients_than_can_be_told_are_none(tmp_path: Path) -> None:
    """Nobody is told again and again because of those who never are; `check` says so, too."""
    many = "mailto://u:hush-hush@x.example?smtp=127.0.0.1&to=" + ",".join(f"{n}@x.example" for n in range(60))
    status, error, message = told(work(many))
    assert (status, error) == (1, "other")
    assert message.startswith("this URL names 60 recipients, of whom its service takes one in 5.5 s; make several")
    made(tmp_path)
    checked = marzhook(tmp_path, "check", expect=1, MARZHOOK_ALERT_URLS=many.replace(",", "%2C")).stdout
    assert "60 recipients" in checked
    assert "28 recipients each" in " ".join(checked.split())


@pytest.fixture
def without_apprise() -> Iterator[None]:
    """As where the extra is not installed: Python itself says so of a module that is None."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "apprise"}
    sys.modules["apprise"] = None  # type: ignore[assignment]
    yield
    del sys.modules["apprise"]
    sys.modules.update(kept)


@pytest.mark.usefixtures("without_apprise")
def test_a_missing_package_is_told_with_what_to_type() -> None:
    """In one line, and no event dies of it."""
    assert told(work("json://127.0.0.1:1/")) == (1, "other", MISSING)
    assert "pip install 'marzhook[destinations]'" in MISSING


@pytest.mark.usefixtures("without_apprise")
def test_an_alert_can_be_made_before_apprise_is_installed(tmp_path: Path) -> None:
    """Or on a machine that does not send; what to type is said."""
    made(tmp_path)
    told = marzhook(tmp_path, "endpoints", "create", URLS["alert"], "--kind", "alert").stdout
    assert MISSING in " ".join(told.split())


def test_a_command_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    """When its endpoint is made or changed; it can be installed later."""
    made(tmp_path)
    allowed = {"MARZHOOK_EXEC_ALLOW": str(tmp_path)}
    told = marzhook(tmp_path, "endpoints", "create", f"exec:{tmp_path}/no", "--kind", "exec", **allowed).stdout
    wanted = f"from this machine: there is no program {tmp_path}/no. Correct its path, or install it."
    assert wanted in " ".join(told.split())
    (tmp_path / "yes").touch(0o755)
    for name, warning in (("yes", None), ("not", f"there is no program {tmp_path}/not")):
        changed = as_json(tmp_path, "endpoints", "edit", "1", "--url", f"exec:{tmp_path}/{name}", **allowed)
        assert changed["warning"] == warning


def test_options_and_urls_are_checked() -> None:
    """When the endpoint is made."""
    assert Alert.checked_options({"language": "fa"}) == {"language": "fa"}
    for options in ({"chat": 5}, {"language": "de"}, {"templates": {"*": "{{"}}):
        with pytest.raises(InvalidError):
            Alert.checked_options(options)
    for url in ("tgram", "json:// x", None):
        with pytest.raises(InvalidError):
            Alert.checked_url(url)


URLS = {"alert": f"json://127.0.0.1:1/{TOKEN}", "sql": f"postgresql://u:{TOKEN}@h/d", "exec": "exec:/bin/sh -c true"}


@pytest.mark.parametrize("kind", URLS)
def test_the_api_makes_none_that_no_guard_watches(api: Api, kind: str) -> None:
    """Nor changes one, whoever asks: they are the operator's."""
    made = api.post("/api/v1/endpoints", json={"kind": kind, "url": URLS[kind]})
    assert (made.status_code, made.json()["code"]) == (403, "kind_not_allowed")
    with api.services.database.write() as tx:
        one = endpoints.create(tx, now=api.clock.now(), kind=kind, url=URLS[kind])
    changed = api.call("PATCH", f"/api/v1/endpoints/{one.id}", json={"url": URLS[kind]})
    assert (changed.status_code, changed.json()["code"]) == (403, "kind_not_allowed")
    shown = api.get("/api/v1/endpoints").text
    assert TOKEN not in shown


def test_the_operator_makes_them_on_the_command_line(tmp_path: Path) -> None:
    """All but a program that the settings do not allow, and nothing of their addresses is shown."""
    made(tmp_path)
    for kind in ("alert", "sql"):
        told = marzhook(tmp_path, "endpoints", "create", URLS[kind], "--kind", kind)
        assert TOKEN not in told.stdout + told.stderr
    refused = marzhook(tmp_path, "endpoints", "create", URLS["exec"], "--kind", "exec", expect=1)
    assert "MARZHOOK_EXEC_ALLOW" in refused.stderr
    refused = marzhook(tmp_path, "endpoints", "create", f"tgram://{TOKEN}/5", "--kind", "alert", expect=2)
    assert "Apprise does not understand this URL" in " ".join(refused.stderr.split())
    assert TOKEN not in refused.stderr
    allowed = {"MARZHOOK_EXEC_ALLOW": "/bin/sh"}
    marzhook(tmp_path, "endpoints", "create", URLS["exec"], "--kind", "exec", **allowed)
    shown = marzhook(tmp_path, "endpoints", "list").stdout
    assert "json://…" in shown
    assert TOKEN not in shown
    checked = marzhook(tmp_path, "check", expect=1).stdout
    assert "/bin/sh may not be run" in checked
    assert "there is no machine named h" in checked
    assert TOKEN not in checked + marzhook(tmp_path, "check", expect=1, **allowed).stdout


def test_where_the_settings_allow_a_kind_the_api_makes_it(tmp_path: Path) -> None:
    """That kind, and no other; a program has to be allowed all the same."""
    with Service(tmp_path, MARZHOOK_API_KINDS="sql,exec") as service:
        new = {"kind": "sql", "url": f"sqlite:///{tmp_path}/users.db"}
        status, answer = service.call("POST", "/api/v1/endpoints", new)
        assert (status, answer["url"]) == (201, "sqlite://…")
        assert service.call("POST", "/api/v1/endpoints", {"kind": "alert", "url": URLS["alert"]})[0] == 403
        status, answer = service.call("POST", "/api/v1/endpoints", {"kind": "exec", "url": URLS["exec"]})
        assert (status, answer["code"]) == (403, "program_not_allowed")
