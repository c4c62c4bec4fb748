"""A panel in front: real requests into a real service, and every event at every endpoint, once."""

from __future__ import annotations

import http.client
import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from marzhook.testing import eventually
from panel_requests import SECRET, again, body_of, captured, captured_events, deleted
from receivers import Receiver, events_of, header_of
from service import Service, marzhook

JSON_TYPE = {"Content-Type": "application/json", "x-webhook-secret": SECRET}


def post(
    service: Service, body: bytes, headers: dict[str, str] = JSON_TYPE, path: str = "/ingest/marzban"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def post_and_lose_the_answer(service: Service, body: bytes) -> None:
    """The service dies with the answer."""
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        post(service, body)
    assert service.end() == -9


def told(receiver: Receiver) -> Counter[tuple[str, str]]:
    return Counter((event["action"], event["username"]) for event in receiver.accepted())


def test_every_captured_request_reaches_every_endpoint_once(tmp_path: Path) -> None:
    """Whoever points the panel's WEBHOOK_ADDRESS here changes nothing else: each event of the panel's real requests comes
    to each of his addresses once, in order per user, with the time at which it was received and without credentials."""
    wanted = [(event["action"], event["username"]) for event in captured_events()]
    assert len(set(wanted)) == len(wanted) == 11
    with Receiver() as one, Receiver() as two:
        addresses = f"{one.url},{two.url}"
        with Service(tmp_path, WEBHOOK_ADDRESS=addresses, WEBHOOK_SECRET=SECRET) as service:
            for headers, body in captured():
                assert post(service, body, headers) == (200, {"accepted": 1, "duplicates": 0, "rejected": 0})
            for receiver in (one, two):
                receiver.wait(len(wanted))
            assert service.stop() == 0
        for receiver in (one, two):
            assert told(receiver) == Counter(wanted)
            for username in ("alice", "nexty", "holdy"):
                mine = [event["action"] for event in receiver.accepted() if event["username"] == username]
                assert mine == [action for action, name in wanted if name == username]
            for record, event in zip(receiver.seen(), receiver.accepted(), strict=True):
                assert 0 <= record["at"] - event["enqueued_at"] < 20
                assert event["source_enqueued_at"] == 1795423342.044399
                assert event["tries"] == 0
                assert "send_at" not in event
            text = "".join(record["body"] for record in receiver.seen())
            assert "subscription_url" not in text
            assert "proxies" not in text


def test_a_lost_answer_does_not_double_an_event(tmp_path: Path) -> None:
    """The service dies after it has stored a request and before it has answered: the panel's retry changes nothing, also
    for events that look exactly alike."""
    update = next(event for event in captured_events() if event["action"] == "user_updated")
    first = [deleted(), update, deleted("bob"), deleted("bob")]
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": SECRET}
        with Service(tmp_path, point="publish.after_commit:1", **settings) as service:
            post_and_lose_the_answer(service, body_of(*first))
        with Service(tmp_path, **settings) as service:
            retry = body_of(*(again(event, 1) for event in first))
            assert post(service, retry) == (200, {"accepted": 0, "duplicates": 4, "rejected": 0})
            # The panel has more to tell by now.
            assert post(service, body_of(deleted("carol")))[1]["accepted"] == 1
            wanted = Counter((event["action"], event["username"]) for event in [*first, deleted("carol")])
            # At least once: what was on its way when the service died comes again, under the same id.
            eventually(lambda: Counter(by_id(receiver).values()) == wanted)
            assert service.stop() == 0
        assert Counter(by_id(receiver).values()) == wanted


def by_id(receiver: Receiver) -> dict[str | None, tuple[str, str]]:
    """What was told, each id once."""
    found = {}
    for record in receiver.seen():
        [event] = events_of(record["body"])
        found[header_of(record, "webhook-id")] = (event["action"], event["username"])
    return found


def test_a_request_that_was_not_stored_is_taken_when_it_comes_again(tmp_path: Path) -> None:
    """The service dies before the commit: nothing of the request is there, and all of its retry is new."""
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": SECRET}
        with Service(tmp_path, point="publish.before_commit:1", **settings) as service:
            post_and_lose_the_answer(service, body_of(deleted(), deleted("bob")))
        with Service(tmp_path, **settings) as service:
            retry = body_of(deleted(tries=1), deleted("bob", tries=1))
            assert post(service, retry)[1] == {"accepted": 2, "duplicates": 0, "rejected": 0}
            receiver.wait(2)
            assert service.stop() == 0
        assert told(receiver) == Counter([("user_deleted", "alice"), ("user_deleted", "bob")])


def test_a_panel_and_a_service_that_keeps_dying(tmp_path: Path) -> None:
    """A panel that works as Marzban's sender does, and a service that is killed before and after its commits in turn:
    in the end each event is stored once, in the order of its user, and has reached the receiver."""
    chance = random.Random(11)
    waiting = [{**deleted(f"user{n % 5}"), "action": "user_updated", "note": n} for n in range(40)]
    told = [event["note"] for event in waiting]
    queue: list[dict[str, Any]] = []
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": SECRET}
        for life in range(5):
            point = f"publish.{('before', 'after')[life % 2]}_commit:{chance.randrange(1, 3)}" if life < 4 else None
            with Service(tmp_path, point=point, **settings) as service:
                while waiting or queue:
                    queue += [waiting.pop(0) for _ in range(min(len(waiting), chance.randrange(1, 6)))]
                    try:
                        assert post(service, body_of(*queue))[0] == 200
                    except (OSError, http.client.HTTPException):
                        assert service.end() == -9
                        queue = [again(event, event["tries"] + 1) for event in queue]
                        break
                    queue = []
                else:
                    assert life == 4
                    eventually(lambda: {event["note"] for event in receiver.accepted()} == set(told))
                    assert service.stop() == 0
    with closing(sqlite3.connect(tmp_path / "marzhook.db")) as connection:
        stored = [json.loads(row[0])["note"] for row in connection.execute("SELECT detail FROM events ORDER BY id")]
    assert sorted(stored) == told
    assert stored == told


def test_the_rest_of_a_request_goes_on_without_a_poisonous_item(tmp_path: Path) -> None:
    """One item that is no event stops no other; the command line shows what it was."""
    body = b'[{"username": "alice", "action": "user_updated"}, {"username": "x\\ny", "action": "user_updated"},' + (
        b'{"username": "bob", "username": "eve", "action": "user_deleted"}, {"username": "carol", "action": "user_limited"}]'
    )
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": SECRET}
        with Service(tmp_path, **settings) as service:
            assert post(service, body) == (200, {"accepted": 2, "duplicates": 0, "rejected": 2})
            receiver.wait(2)
            listed = marzhook(tmp_path, "ingest", "rejected", **settings)
            assert listed.returncode == 0, listed.stderr
            assert "control characters" in listed.stdout
            assert "a key occurs twice in one object" in listed.stdout
            found = json.loads(marzhook(tmp_path, "ingest", "rejected", "--json", **settings).stdout)
            assert [one["code"] for one in found] == ["unreadable_event", "invalid_username"]
            assert json.loads(found[1]["body"]) == {"username": "x\ny", "action": "user_updated"}
            status, answer = service.call("GET", "/api/v1/ingest/rejected")
            assert status == 200
            assert [one["id"] for one in answer["rejected"]] == [one["id"] for one in found]
            metrics = service.call("GET", "/metrics")[1]
            assert 'marzhook_ingested_total{outcome="accepted",source="marzban"} 2.0' in metrics
            assert 'marzhook_ingested_total{outcome="rejected",source="marzban"} 2.0' in metrics
            assert service.stop() == 0
        assert told(receiver) == Counter([("user_updated", "alice"), ("user_limited", "carol")])


def test_a_wrong_secret_brings_nothing_in(tmp_path: Path) -> None:
    """Without the panel's secret nobody publishes here; the log says so, and not what the secret is."""
    with Service(tmp_path, MARZHOOK_INGEST_SECRET=SECRET) as service:
        for headers in ({}, {"x-webhook-secret": "wrong"}, {"x-webhook-secret": SECRET + "x"}):
            status, answer = post(service, body_of(deleted()), headers)
            assert (status, answer["code"]) == (403, "wrong_secret")
        assert service.call("GET", "/api/v1/events")[1]["events"] == []
        metrics = service.call("GET", "/metrics")[1]
        assert 'marzhook_ingest_refused_total{code="wrong_secret",source="marzban"} 3.0' in metrics
        service.stop()
        text = "".join(service.log)
        assert "a panel's request was refused" in text
        assert SECRET not in text


def test_without_a_secret_the_panel_beside_it_may_send(tmp_path: Path) -> None:
    """On one machine it works without any setting; what came through a proxy is refused, whatever that says."""
    with Service(tmp_path) as service:
        assert post(service, body_of(deleted()), {})[0] == 200
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            for value in ("127.0.0.1", "203.0.113.9", "for=127.0.0.1"):
                status, answer = post(service, body_of(deleted("bob")), {header: value})
                assert (status, answer["code"]) == (403, "secret_needed"), header
        assert len(service.call("GET", "/api/v1/events")[1]["events"]) == 1
        assert service.stop() == 0
