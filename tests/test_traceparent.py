"""A caller's trace, from the API over the outbox to every request that its events lead to; without any OpenTelemetry."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dispatching import House
from marzhook import trace_context
from marzhook.clock import from_unix
from marzhook.dispatch.limits import Limits
from marzhook.dispatch.sender import Sender
from marzhook.request import Request
from marzhook.store import history
from marzhook.store.group_commit import GroupCommit
from marzhook.testing import FakeClock
from receivers import Receiver, header_of
from service import Service

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]

PANEL_EVENT = {"username": "alice", "action": "user_updated", "enqueued_at": 1.5, "send_at": 1.5, "tries": 0}


def trace(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


def published(house: House, username: str, traceparent: str) -> int:
    token = trace_context.current.set(traceparent)
    try:
        [event_id] = house.publish([username])
    finally:
        trace_context.current.reset(token)
    return event_id


def test_an_event_keeps_the_trace_of_whoever_publishes_it(house: House) -> None:
    """Beside events without one; whoever reads it gets it back, from each place where it is read."""
    endpoint = house.endpoint("http://127.0.0.1:9/")
    plain, traced = house.publish(["ann"]), published(house, "bob", f"{trace(7)} congo=1")
    texts = [d.event.traceparent for d in house.outbox.window(endpoint.id, after=0, limit=10)]
    assert texts == ["", f"{trace(7)} congo=1"]
    assert [d.event.traceparent for d in house.outbox.load(endpoint.id, [*plain, traced])] == texts
    [next_one] = house.outbox.following(endpoint.id, [("bob", 0)], limit=5)
    assert next_one.event.traceparent == texts[1]
    with house.database.read() as conn:
        assert history.event(conn, traced).traceparent == texts[1]
        assert history.delivery(conn, endpoint.id, traced).event.traceparent == texts[1]


def test_calls_that_share_a_commit_keep_their_own_traces(house: House) -> None:
    """Whichever thread writes for the others."""
    together = GroupCommit(house.database)

    def call(number: int) -> int:
        trace_context.current.set(trace(number))
        return together.write(
            lambda tx: house.outbox.publish(tx, [house.event(f"user{number}")], now=from_unix(1.0))[0]
        )

    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(call, range(1, 65)))
    with house.database.read() as conn:
        assert [history.event(conn, id_).traceparent for id_ in ids] == [trace(number) for number in range(1, 65)]


def shipped(house: House, clock: FakeClock, **values: Any) -> list[Request]:
    made = house.endpoint("http://127.0.0.1:9/", **values)
    published(house, "ann", trace(3))
    house.publish(["bob"])
    one = Sender(house.load(made.id), house.outbox, clock, instance="x", limits=Limits(), random=lambda: 0.5)
    requests = []
    one.refill()
    while one.room(clock.monotonic()):
        request = one.ship()[1]
        assert request is not None
        requests.append(request)
    return requests


@pytest.mark.parametrize("format", ["event", "standard"])
def test_a_request_carries_its_events_trace(house: House, clock: FakeClock, format: str) -> None:
    """As it came; and an event without one leaves no trace in the headers."""
    first, second = shipped(house, clock, format=format)
    assert dict(first.headers)["traceparent"] == trace(3)
    assert "traceparent" not in dict(second.headers)


@pytest.mark.parametrize("values", [{"format": "list"}, {"kind": "discord"}], ids=["list", "discord"])
def test_a_request_with_several_events_carries_the_first_trace(house: House, clock: FakeClock, values: Any) -> None:
    """There is room for one only."""
    [request] = shipped(house, clock, **values)
    assert [value for name, value in request.headers if name == "traceparent"] == [trace(3)]


def test_the_api_shows_the_trace_of_an_event(api: Api) -> None:
    """Where one looks at an event in full; and what is malformed is as if it had not been sent."""
    event = {"username": "alice", "action": "user_updated"}
    traced = api.post("/api/v1/events", json=event, headers={"traceparent": trace(5), "tracestate": "congo=1"})
    wrong = api.post("/api/v1/events", json=event, headers={"traceparent": "nonsense", "tracestate": "congo=1"})
    assert (traced.status_code, wrong.status_code) == (202, 202)
    shown = [api.get(f"/api/v1/events/{one.json()['events'][0]['id']}").json() for one in (traced, wrong)]
    assert [one["traceparent"] for one in shown] == [trace(5), None]


def posted(service: Service, path: str, body: Any, **headers: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}{path}", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {service.token()}", **headers},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.status)


def test_a_trace_reaches_the_receiver_whichever_way_it_comes_in(tmp_path: Path, receiver: Receiver) -> None:
    """Over the events API, the users API and a panel's webhook, at the first try and at the second."""
    receiver.do(status=500, times=1)
    with Service(
        tmp_path, WEBHOOK_ADDRESS=receiver.url, NUMBER_OF_RECURRENT_NOTIFICATIONS="3",
        RECURRENT_NOTIFICATIONS_TIMEOUT="1",
    ) as service:  # fmt: skip
        calls = [
            ("/api/v1/events", {"username": "ann", "action": "user_updated"}),
            ("/api/user", {"username": "bob_1", "proxies": {}}),
            ("/ingest/marzban", [PANEL_EVENT]),
        ]
        for number, (path, body) in enumerate(calls, 1):
            assert posted(service, path, body, traceparent=trace(number), tracestate=f"vendor=v{number}") < 300
        records = receiver.wait(4)
    carried = {(header_of(one, "traceparent"), header_of(one, "tracestate")) for one in records}
    assert carried == {(trace(number), f"vendor=v{number}") for number in (1, 2, 3)}
