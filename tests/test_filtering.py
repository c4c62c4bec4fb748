"""Filters and templates at work: what is owed when events are published, on both databases, and what then arrives."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from dispatching import House
from marzhook import operations, signing
from marzhook.delivery import Delivery
from marzhook.destinations.kinds import destination
from marzhook.endpoint import Endpoint
from marzhook.event import Event, NewEvent, detail_json
from marzhook.store import endpoints, history
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock, eventually
from receivers import Receiver, header_of
from registries import World

pytest_plugins = ["registries"]


def owing(database: Database, clock: FakeClock, **values: Any) -> int:
    with database.write() as tx:
        return endpoints.create(
            tx, now=clock.now(), kind="webhook", url="http://x/", **operations.checked("webhook", values)
        ).id


def owed(outbox: Outbox, endpoint_id: int) -> list[tuple[str, str]]:
    return [(d.event.action, d.event.username) for d in outbox.window(endpoint_id, after=0, limit=1000)]


def publish(database: Database, outbox: Outbox, clock: FakeClock, *events: NewEvent, **values: Any) -> list[int]:
    with database.write() as tx:
        return outbox.publish(tx, events, now=clock.now(), **values)


def test_all_parts_of_a_filter_decide(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """Each endpoint is owed what its filter lets pass, in one publish of several events."""
    by_name = owing(database, clock, usernames=["VIP_*", "!vip_2"])
    by_admin = owing(database, clock, admins=["alice"])
    by_condition = owing(database, clock, condition="user.data_limit > `5`", actions=["user_created"])
    everything = owing(database, clock)
    new = [
        NewEvent("user_created", "vip_1", {"user": {"data_limit": 10, "admin": {"username": "alice"}}}),
        NewEvent("user_created", "vip_2", {"by": {"username": "alice"}, "user": {"data_limit": 5}}),
        NewEvent("user_updated", "anna", {"user": {"data_limit": 10}}),
        NewEvent("user_deleted", "Vip_3", {"by": None}, owner="alice"),
    ]
    publish(database, outbox, clock, *new)
    assert owed(outbox, by_name) == [("user_created", "vip_1"), ("user_deleted", "Vip_3")]
    assert owed(outbox, by_admin) == [("user_created", "vip_1"), ("user_created", "vip_2"), ("user_deleted", "Vip_3")]
    assert owed(outbox, by_condition) == [("user_created", "vip_1")]
    assert len(owed(outbox, everything)) == 4


def test_a_test_event_passes_every_filter(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """Who tests an endpoint wants to see something arrive."""
    one = owing(database, clock, usernames=["vip_*"], condition="user.status == 'active'")
    publish(database, outbox, clock, NewEvent("marzhook_test", "marzhook_test"), only_to=one)
    assert owed(outbox, one) == [("marzhook_test", "marzhook_test")]


def test_what_a_condition_cannot_tell_is_delivered(
    database: Database, outbox: Outbox, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Rather one event too many than one too few; one line of the log says so, without the users' values."""
    one = owing(database, clock, condition="contains(user.note, 'vip')")
    notes = [None, "a vip", "nobody", 5]
    events = [NewEvent("user_updated", f"u{i}", {"user": {"note": note}}) for i, note in enumerate(notes)]
    with caplog.at_level(logging.WARNING):
        publish(database, outbox, clock, *events)
    assert [name for _, name in owed(outbox, one)] == ["u0", "u1", "u3"]
    (record,) = [r for r in caplog.records if "condition" in r.message]
    assert record.fields == {  # type: ignore[attr-defined]
        "endpoint": one, "events": 2, "reason": "contains() got null, and takes array or string",
    }  # fmt: skip


def test_a_condition_that_cannot_be_read_any_more_stops_nobody(
    database: Database, outbox: Outbox, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that an older version took, say: publishing goes on, its endpoint is owed everything, and the log says why."""
    with database.write() as tx:
        one = endpoints.create(tx, now=clock.now(), kind="webhook", url="http://x/", condition="map(&a, user)").id
    with caplog.at_level(logging.WARNING):
        publish(database, outbox, clock, NewEvent("user_updated", "anna"))
    assert owed(outbox, one) == [("user_updated", "anna")]
    assert "there is no function map()" in str(caplog.records[-1].fields)  # type: ignore[attr-defined]


@pytest.mark.parametrize("detail", ["none", "safe", "full"])
def test_a_condition_sees_no_credentials(database: Database, outbox: Outbox, clock: FakeClock, detail: str) -> None:
    """Whatever an endpoint gets: by asking bit after bit somebody could find them out."""
    one = owing(database, clock, detail=detail, condition="user.links || user.subscription_url")
    other = owing(database, clock, detail=detail, condition="user.status")
    user = {"status": "active", "links": ["vless://hush"], "subscription_url": "/sub/hush"}
    publish(database, outbox, clock, NewEvent("user_created", "anna", {"user": user}))
    assert (owed(outbox, one), owed(outbox, other)) == ([], [("user_created", "anna")])


def test_an_admins_endpoint_hears_of_all_his_users(world: World) -> None:
    """Also what somebody else or time did to them, and that they were deleted, of which the event says nothing."""
    alice, root = world.admin("alice"), world.admin("root", is_sudo=True)
    mine = owing(world.database, world.clock, admins=["alice"])
    world.add("hers", alice)
    world.add("other", root, expire=world.at + 100)
    world.registry.modify("hers", {"note": "x"}, root)
    world.registry.delete("hers", root)
    world.registry.delete("other", root)
    assert owed(world.outbox, mine) == [("user_created", "hers"), ("user_updated", "hers"), ("user_deleted", "hers")]


def test_filters_and_templates_come_back(database: Database, clock: FakeClock) -> None:
    """They are kept as they were given, and the template, which may hold a token, encrypted."""
    values = {
        "actions": ["user_created"], "admins": ["alice", "bob"], "usernames": ["vip_*", "!vip_2"],
        "condition": "user.status == 'active'", "template": '{"token": "hush"}',
    }  # fmt: skip
    one = owing(database, clock, **values)
    with database.read() as conn:
        read = endpoints.get(conn, one)
        row = conn.exec_driver_sql(f"SELECT * FROM endpoints WHERE id = {one}").one()
    assert (read.admins, read.usernames) == (frozenset({"alice", "bob"}), ("vip_*", "!vip_2"))
    assert (read.condition, read.template) == (values["condition"], values["template"])
    assert "hush" not in repr(row) + repr(read)
    with database.write() as tx:
        bare = endpoints.update(tx, one, **dict.fromkeys(values))
    assert (bare.actions, bare.admins, bare.usernames, bare.condition, bare.template) == (None,) * 5


# -- templates


TEMPLATE = '{"text": "{{ username }} is {{ user.status }}", "id": {{ id|tojson }}, "tries": {{ tries }}}'


def test_a_template_makes_the_body(house: House, receiver: Receiver) -> None:
    """What arrives is what the template made, and it is that which is signed, also of a name that wants to break out."""
    endpoint = house.endpoint(receiver.url, template=TEMPLATE, secret="s", secret_mode="hmac")
    house.publish(['a", "x": "'], user={"status": "active"})
    with house.dispatching():
        (record,) = receiver.wait(1)
        eventually(lambda: house.states() == {"delivered": 1})
    body = json.loads(record["body"])
    assert body == {"text": 'a", "x": " is active', "id": header_of(record, "webhook-id"), "tries": 0}
    assert header_of(record, "x-webhook-secret") == signing.hex_hmac("s", record["body"].encode())
    key = signing.key_of(endpoint.signing_secret)
    timestamp = int(header_of(record, "webhook-timestamp"))
    signature = signing.sign_v1(key, header_of(record, "webhook-id"), timestamp, record["body"].encode())
    assert header_of(record, "webhook-signature") == signature


def test_a_list_has_what_the_template_makes_of_each(house: House, receiver: Receiver) -> None:
    """In the `list` format a template makes an item, and those are sent together."""
    house.endpoint(receiver.url, template='"{{ username }}"', format="list")
    house.publish(["a", "b", "c"])
    with house.dispatching():
        eventually(lambda: house.states() == {"delivered": 3})
    assert [name for record in receiver.seen() for name in json.loads(record["body"])] == ["a", "b", "c"]


@pytest.mark.parametrize("many", [list(range(36_000)), {f"k{n}": n for n in range(14_000)}, ["x" * 240] * 1000])
def test_the_largest_events_can_be_written_as_a_whole(many: Any) -> None:
    """A template's budget grows with its event."""
    target = destination(
        Endpoint(1, "n", "webhook", "http://x/", template="{{ event|tojson }}", signing_secret=signing.new_secret()),
        instance="i",
    )
    event = Event(1, "user_updated", "anna", 1.0, detail_json({"many": many}))
    assert len(event.detail_json) > 200_000
    assert json.loads(target.item(Delivery(1, event), event.time))["many"] == many


@pytest.mark.parametrize("form", ["event", "list"])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('{% if username == "bad" %}{{ username + 1 }}{% else %}{}{% endif %}', "template, line 1: + wants"),
        ('{% if username == "bad" %}no json{% else %}{}{% endif %}', "template: what it makes is no JSON"),
        ('{% if username == "bad" %}{{ 1e308 * 10 }}{% else %}{}{% endif %}', "template: what it makes is no"),
        (
            '{% set a = [1,2,3,4,5,6,7,8,9,0] %}{% if username == "bad" %}'
            + "{% for x in a %}" * 9 + "{% endfor %}" * 9 + "{% endif %}{}",
            "template, line 1: it takes too long",
        ),
    ],
)  # fmt: skip
def test_a_template_that_fails_makes_that_delivery_dead(
    house: House, receiver: Receiver, form: str, source: str, reason: str
) -> None:
    """With the reason; its user's next event, and everybody else's, goes out."""
    endpoint = house.endpoint(receiver.url, template=source, format=form)
    ids = house.publish(["good", "bad", "other"])
    with house.dispatching():
        eventually(lambda: house.states() == {"dead": 1, "delivered": 2})
    with house.database.read() as conn:
        (attempt,) = history.attempts(conn, endpoint.id, ids[1])
    assert (attempt.error, attempt.schedule) == ("render", "rejected")
    assert attempt.message.startswith(reason)
    assert not house.load(endpoint.id).failing_since


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"template": "{{ nope( }}"}, "template, line 1"),
        ({"kind": "telegram", "options": {"templates": {"*": "{{ nope( }}"}}}, "template, line 1"),
        ({"kind": "telegram", "options": {"timezone": "Asia/Nowhere"}}, "ZoneInfoNotFoundError: "),
        ({"kind": "alert", "options": {"language": "xx"}}, "KeyError: 'xx'"),
        ({"signatures": "v9"}, "signatures must be one of v1, v1a, both, not 'v9'"),
        ({"kind": "pigeon"}, "this version of Marzhook has no endpoints of the kind 'pigeon'"),
    ],
)
def test_what_this_version_does_not_understand_waits(
    house: House, receiver: Receiver, caplog: pytest.LogCaptureFixture, values: dict[str, Any], reason: str
) -> None:
    """What another version stored, say: nothing of it is tried and the log says why, once, while all others go on; as soon as
    it is understood, all of it is delivered."""
    broken = house.endpoint(receiver.url + "broken", **values)
    house.endpoint(receiver.url + "other")
    house.publish([f"user{n}" for n in range(30)])
    with house.dispatching() as dispatcher:
        eventually(lambda: house.states() == {"delivered": 30})
        with house.database.write() as tx:
            endpoints.update(tx, broken.id, rate_limit=1000.0)
        house.publish(["late"])
        eventually(lambda: house.states() == {"delivered": 31})
        assert house.count("pending", f"endpoint_id = {broken.id}") == 31
        assert house.count("attempts", f"endpoint_id = {broken.id}") == 0
        assert broken.id in dispatcher.resting()
        told = [record.fields for record in caplog.records if hasattr(record, "fields") and "why" in record.fields]
        assert [(one["endpoint"], one["why"].startswith(reason)) for one in told] == [(broken.id, True)]

        with house.database.write() as tx:
            endpoints.update(tx, broken.id, kind="webhook", template=None, options={}, signatures="v1")
        eventually(lambda: house.states() == {"delivered": 62})
    assert not house.load(broken.id).failing_since


def test_an_answer_counts_though_its_endpoint_is_no_longer_understood(house: House, receiver: Receiver) -> None:
    """Another version stored a template while a request was on its way: accepted is accepted, and it is not sent again."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(hold=True)
    house.publish(["ann"])
    with house.dispatching() as dispatcher:
        receiver.wait(1)
        with house.database.write() as tx:
            endpoints.update(tx, endpoint.id, template="{{ nope( }}")
        dispatcher.wake()
        eventually(lambda: dispatcher.resting() == {endpoint.id})
        receiver.do(status=200)
        eventually(lambda: house.count("attempts") == 1)
    assert house.states() == {"delivered": 1}


def test_an_option_that_only_a_newer_version_knows_stops_nothing(
    house: House, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent to without; the log names it, once."""
    endpoint = house.endpoint(receiver.url, options={"wings": 2, "feathers": "many"})
    house.publish(["ann"])
    with house.dispatching():
        eventually(lambda: house.states() == {"delivered": 1})
        with house.database.write() as tx:
            endpoints.update(tx, endpoint.id, rate_limit=1000.0)
        house.publish(["bob"])
        eventually(lambda: house.states() == {"delivered": 2})
        eventually(lambda: "does not know" in caplog.text)
    told = [record.fields for record in caplog.records if hasattr(record, "fields") and "options" in record.fields]
    assert [(one["endpoint"], one["options"]) for one in told] == [(endpoint.id, "feathers, wings")]
