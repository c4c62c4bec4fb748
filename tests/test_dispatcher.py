"""The dispatcher on a real database, with real receivers, on the machine's clock."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime

import pytest
import standardwebhooks

from dispatching import CLOCK, House
from marzhook.delivery import Delivery, Settlement
from marzhook.dispatch import dispatcher as dispatcher_module
from marzhook.dispatch import settler, watching
from marzhook.errors import StoreBusyError
from marzhook.retry import RetryPolicy
from marzhook.store import endpoints, sessions
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.testing import counting, eventually
from receivers import Receiver, events_of, header_of


def test_a_failed_delivery_is_tried_again_until_it_is_accepted(house: House, receiver: Receiver) -> None:
    """Three 500s, then success: the wire counts the failed tries, every attempt is kept, the id stays the same."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(status=500, body="not now", times=3)
    (event_id,) = house.publish(["anna"])
    with house.dispatching():
        records = receiver.wait(4)
        eventually(lambda: house.count("pending") == 0)
    assert [json.loads(r["body"])["tries"] for r in records] == [0, 1, 2, 3]
    assert len({header_of(r, "webhook-id") for r in records}) == 1
    assert house.attempts(endpoint, event_id) == [(1, 500, None), (2, 500, None), (3, 500, None), (4, 200, None)]
    assert house.states() == {"delivered": 1}


@pytest.mark.postgresql
def test_calls_that_have_all_connections_hold_up_no_delivery(
    house: House, receiver: Receiver, reopen: Callable[..., Database]
) -> None:
    """Who sends reads what is new, and how endpoints fare, on connections of his own."""
    another = reopen()
    house.endpoint(receiver.url)
    with house.dispatching(shared="one") as dispatcher, ExitStack() as calls:
        house.publish(["anna"])
        receiver.wait(1)
        for _ in range(30):
            calls.enter_context(house.database.read())
        House(another, Outbox(another)).publish(["bob"])
        receiver.wait(2, timeout=5)
        assert dispatcher.trouble is None


def test_after_the_last_try_it_is_dead_the_next_passes_and_replay_brings_it_back(
    house: House, receiver: Receiver
) -> None:
    """Dead letters do not hold their user's later events, keep their attempts, and can be replayed."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(status=500, times=3)
    first, _ = house.publish(["anna", "anna"])
    with house.dispatching(RetryPolicy((0.01, 0.01), jitter=0.0)):
        eventually(lambda: house.states() == {"dead": 1, "delivered": 1})
        with house.database.write() as tx:
            assert house.outbox.replay(tx, DeliveryFilter(), now=CLOCK.now()) == 1
        eventually(lambda: house.states() == {"delivered": 2})
    assert [number for number, _, _ in house.attempts(endpoint, first)] == [1, 2, 3, 4]
    assert json.loads(receiver.seen()[-1]["body"])["tries"] == 0


def test_a_users_events_never_overtake_each_other(house: House, receiver: Receiver) -> None:
    """Under failures at random, each user's events are accepted in the order of their ids."""
    house.endpoint(receiver.url)
    users = [f"user{i % 7}" for i in range(300)]
    house.publish(users)
    stop = threading.Event()

    def trouble() -> None:
        for _ in range(25):
            if stop.wait(0.02):
                return
            receiver.do(status=503, times=2)

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        with house.dispatching():
            eventually(lambda: house.count("pending") == 0, timeout=60)
    finally:
        stop.set()
        thread.join()
    assert house.states() == {"delivered": 300}
    accepted = receiver.accepted()
    assert sorted(event["n"] for event in accepted) == list(range(300))
    for user in set(users):
        numbers = [event["n"] for event in accepted if event["username"] == user]
        assert numbers == sorted(numbers)


def test_an_endpoint_can_opt_out_of_order(house: House, receiver: Receiver) -> None:
    """ordered=false: one user's events are on their way at the same time."""
    house.endpoint(receiver.url, ordered=False)
    receiver.do(mode="hang")
    house.publish(["anna"] * 8)
    with house.dispatching():
        receiver.wait(8)
    assert receiver.most_in_flight() == 8


def test_concurrency_is_bounded(house: House, receiver: Receiver) -> None:
    """No more requests are in flight at an endpoint than it allows."""
    house.endpoint(receiver.url, concurrency=3)
    receiver.do(delay=0.02)
    house.publish([f"user{i}" for i in range(30)])
    with house.dispatching():
        eventually(lambda: house.count("pending") == 0)
    assert receiver.most_in_flight() == 3


def test_few_connections_are_shared_by_all_endpoints(house: House, receiver: Receiver) -> None:
    """No more requests are in flight than the process may have, and endpoints take turns whichever has how much."""
    for path in "abc":
        house.endpoint(receiver.url + path)
    receiver.do(delay=0.01)
    house.publish([f"user{i}" for i in range(30)])
    with house.dispatching(in_flight=2):
        eventually(lambda: house.count("pending") == 0)
    assert receiver.most_in_flight() == 2
    assert {record["path"] for record in receiver.seen()[:8]} == {"/a", "/b", "/c"}


def test_list_batches_what_is_due(house: House, receiver: Receiver) -> None:
    """`list`: up to 100 events a request, a user's in order; a failed batch is tried again whole."""
    house.endpoint(receiver.url, format="list")
    receiver.do(status=500, times=1)
    users = [f"user{i % 50}" for i in range(250)]
    house.publish(users)
    with house.dispatching():
        eventually(lambda: house.count("pending") == 0)
    sizes = [len(events_of(r["body"])) for r in receiver.seen()]
    assert max(sizes) <= 100
    assert sum(sizes) < 400
    accepted = receiver.accepted()
    assert sorted(e["n"] for e in accepted) == list(range(250))
    for user in set(users):
        numbers = [e["n"] for e in accepted if e["username"] == user]
        assert numbers == sorted(numbers)


def test_list_batches_stay_below_256_kib(house: House, receiver: Receiver) -> None:
    """Large events make smaller batches; one that is larger than the limit alone still goes."""
    house.endpoint(receiver.url, format="list")
    house.publish([f"user{i}" for i in range(12)], note="x" * 60_000)
    with house.dispatching():
        eventually(lambda: house.count("pending") == 0)
    assert all(len(r["body"]) <= 256 * 1024 for r in receiver.seen())
    assert len(receiver.accepted()) == 12


def test_discord_gets_up_to_ten_embeds_a_message_and_its_rate_limit_is_obeyed(house: House, receiver: Receiver) -> None:
    """One message at a time; after a 429 nothing is sent until `retry_after` has passed."""
    house.endpoint(receiver.url, kind="discord")
    limited = json.dumps({"message": "You are being rate limited.", "retry_after": 0.7, "global": False})
    receiver.do(status=429, body=limited, times=1)
    house.publish([f"user{i}" for i in range(25)])
    with house.dispatching():
        eventually(lambda: house.count("pending") == 0)
    records = receiver.seen()
    assert records[0]["answered"] == 429
    assert records[1]["at"] - records[0]["at"] >= 0.65
    sent = [json.loads(r["body"]) for r in records[1:]]
    assert all(len(message["embeds"]) <= 10 for message in sent)
    assert sum(len(message["embeds"]) for message in sent) == 25
    assert all(message["allowed_mentions"] == {"parse": []} for message in sent)
    assert receiver.most_in_flight() == 1


@pytest.mark.parametrize("form", ["event", "list", "standard"])
def test_what_is_on_the_wire_verifies_with_the_public_library(house: House, receiver: Receiver, form: str) -> None:
    """`standardwebhooks` accepts the headers and the raw body of every format."""
    endpoint = house.endpoint(receiver.url, format=form)
    house.publish(["سارا"])
    with house.dispatching():
        (record,) = receiver.wait(1)
    headers = {key.lower(): value for key, value in record["headers"]}
    standardwebhooks.Webhook(endpoint.signing_secret).verify(record["body"], headers)


@pytest.mark.sqlite
def test_a_locked_database_delays_settling_and_loses_nothing(house: House, receiver: Receiver) -> None:
    """While another program holds the write lock, sending goes on, readiness says why, and all is settled after."""
    house.endpoint(receiver.url)
    impatient = Database.open(f"sqlite:///{house.database.name}", busy_timeout=0.05)
    house = House(impatient, Outbox(impatient))
    house.publish([f"user{i}" for i in range(20)])
    other = sqlite3.connect(house.database.name, isolation_level=None)
    with house.dispatching() as dispatcher:
        eventually(lambda: house.count("pending") == 0)
        other.execute("BEGIN IMMEDIATE")
        # Written while it was still possible; the lock is only in the way of settling.
        other.execute(
            "INSERT INTO events (action, username, enqueued_at) VALUES ('user_updated', 'late', 1800000000.5)"
        )
        other.execute("INSERT INTO pending (endpoint_id, event_id) SELECT 1, max(id) FROM events")
        other.execute("COMMIT")
        other.execute("BEGIN IMMEDIATE")
        receiver.wait(21)
        eventually(lambda: any("settling" in reason for reason in dispatcher.not_ready))
        other.execute("ROLLBACK")
        eventually(lambda: house.count("pending") == 0)
        eventually(lambda: not dispatcher.not_ready)
    other.close()
    assert len(receiver.accepted()) == 21
    impatient.close()


def test_what_hangs_takes_its_place_and_nobody_elses(house: House, receiver: Receiver) -> None:
    """A hung endpoint fails by its timeout while another is served; after five failures nobody's tries are used up."""
    with Receiver() as hanging:
        hanging.do(mode="hang")
        sick, _ = house.endpoint(hanging.url), house.endpoint(receiver.url)
        ids = house.publish([f"user{i}" for i in range(50)])
        with house.dispatching(RetryPolicy(()), timeout=0.5):
            receiver.wait(50)
            eventually(lambda: house.count("attempts", f"endpoint_id = {sick.id}") >= 33)
    assert house.states() == {"delivered": 50, "dead": 5}
    assert house.attempts(sick, ids[0]) == [(1, None, "timeout")]


def test_a_deleted_endpoint_is_sent_nothing_more(house: House, receiver: Receiver) -> None:
    """Deleting an endpoint cancels what it is owed, also while requests are on their way."""
    receiver.do(mode="hang")
    endpoint = house.endpoint(receiver.url, concurrency=2, source="api")
    with house.database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE endpoints SET source = 'environment'")
    house.publish([f"user{i}" for i in range(10)])
    with house.dispatching():
        receiver.wait(2)
        with house.database.write() as tx:
            tx.conn.exec_driver_sql("UPDATE endpoints SET source = 'api'")
            endpoints.delete(tx, endpoint.id, now=CLOCK.now())
        eventually(lambda: house.count("pending") == 0)
    assert house.states() == {"cancelled": 10}
    assert len(receiver.seen()) == 2


def test_an_event_that_cannot_be_rendered_is_dead_and_holds_nobody(house: House, receiver: Receiver) -> None:
    """A broken row becomes a dead letter with the reason; the user's next event goes out."""
    endpoint = house.endpoint(receiver.url, format="standard")
    first, _ = house.publish(["anna", "anna"], user={"username": "anna"})
    with house.database.write() as tx:
        # A time that no calendar has.
        tx.conn.exec_driver_sql(f"UPDATE events SET enqueued_at = 1e20 WHERE id = {first}")
    with house.dispatching():
        eventually(lambda: house.states() == {"dead": 1, "delivered": 1})
    assert house.attempts(endpoint, first) == [(1, None, "render")]


def test_the_dispatcher_starts_anew_after_an_error_of_its_own(house: House, receiver: Receiver) -> None:
    """An unexpected error costs a second, not the service."""
    house.endpoint(receiver.url)
    broken = [True]

    class Stumbling(Outbox):
        def window(self, endpoint_id: int, *, after: int, limit: int) -> list[Delivery]:
            if broken.pop() if broken else False:
                raise RuntimeError("once")
            return super().window(endpoint_id, after=after, limit=limit)

    house = House(house.database, Stumbling(house.database))
    house.publish(["anna"])
    with house.dispatching():
        receiver.wait(1)
        eventually(lambda: house.count("pending") == 0)


def test_thousands_are_delivered_each_once(house: House, receiver: Receiver) -> None:
    """5,000 events published while the dispatcher runs arrive once each, and every table agrees."""
    house.endpoint(receiver.url)
    with house.dispatching(), counting("settle.after_commit") as settled:
        for start in range(10):
            house.publish([f"user{(start * 500 + i) % 100}" for i in range(500)])
        receiver.wait(5000, timeout=60)
        eventually(lambda: house.count("pending") == 0)
        assert settled.count >= 1
    assert len({header_of(r, "webhook-id") for r in receiver.seen()}) == 5000
    assert house.count("settled") == house.count("attempts") == 5000


@pytest.mark.parametrize(
    ("prepare", "state"),
    [
        (lambda house, which, tx: house.outbox.cancel(tx, which, now=CLOCK.now()), "cancelled"),
        (lambda house, which, tx: house.outbox.hasten(tx, which, now=CLOCK.now()), "delivered"),
    ],
)
def test_a_waiting_delivery_can_be_cancelled_or_hastened(
    house: House, receiver: Receiver, prepare: Callable[..., int], state: str
) -> None:
    """A delivery that waits an hour for its next try ends at once when it is cancelled, or goes out when hastened."""
    house.endpoint(receiver.url)
    receiver.do(status=500, times=1)
    (event_id,) = house.publish(["anna"])
    with house.dispatching(RetryPolicy((3600.0,))):
        eventually(lambda: house.count("pending", "tries = 1") == 1)
        with house.database.write() as tx:
            assert prepare(house, DeliveryFilter(event_id=event_id), tx) == 1
        eventually(lambda: house.states() == {state: 1})


def test_it_begins_anew_only_when_answers_are_on_disk(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while the database is locked for long: what was answered is not sent a second time."""
    monkeypatch.setattr(settler, "RETRY_EVERY", 0.01)
    monkeypatch.setattr(dispatcher_module, "SETTLER_LOOK", 0.01)
    settle, behind = house.outbox.settle, house.outbox.behind
    tries: list[int] = []
    locked, broken = threading.Event(), threading.Event()
    locked.set()

    def settle_later(settlements: Sequence[Settlement], *, now: datetime) -> None:
        if locked.is_set():
            tries.append(len(settlements))
            raise StoreBusyError("locked")
        settle(settlements, now=now)

    def behind_broken(cursors: Mapping[int, int]) -> list[int]:
        if not broken.is_set() and tries:
            broken.set()
            raise RuntimeError("unheard of")
        return behind(cursors)

    monkeypatch.setattr(house.outbox, "settle", settle_later)
    monkeypatch.setattr(house.outbox, "behind", behind_broken)
    house.endpoint(receiver.url)
    house.publish(["first"])
    with house.dispatching() as dispatcher:
        eventually(lambda: tries)
        house.publish(["second"])
        eventually(broken.is_set)
        so_far = len(tries)
        eventually(lambda: len(tries) > so_far + 20)
        assert dispatcher.trouble == "RuntimeError('unheard of')"
        locked.clear()
        eventually(lambda: house.count("pending") == 0)
        eventually(lambda: dispatcher.not_ready == [])
    assert [e["username"] for e in receiver.accepted()] == ["first", "second"]


def test_each_error_that_stops_it_is_told_once(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one without words, which is a reason not to be ready, and one that has the words of another; that it is over is
    told, too."""
    errors = [AssertionError(), AssertionError(), KeyError("x"), ValueError("'x'")]
    behind = house.outbox.behind
    reasons: list[str] = []

    def behind_broken(cursors: Mapping[int, int]) -> list[int]:
        reasons.extend(dispatcher.not_ready)
        if not errors:
            return behind(cursors)
        dispatcher.wake()  # it would wait a second
        raise errors.pop(0)

    house.endpoint(receiver.url)
    with caplog.at_level(logging.INFO, dispatcher_module.__name__), house.dispatching() as dispatcher:
        monkeypatch.setattr(house.outbox, "behind", behind_broken)
        house.publish(["anna"])
        eventually(lambda: house.states() == {"delivered": 1})
        told = [record.message for record in caplog.records if record.name == dispatcher_module.__name__]
    assert told == ["the dispatcher starts anew"] * 3 + ["the dispatcher works again"]
    assert reasons == [
        f"dispatcher: {error}" for error in ("AssertionError()",) * 2 + ("KeyError('x')", "ValueError(\"'x'\")")
    ]


@pytest.mark.postgresql
def test_what_another_process_publishes_is_told(
    house: House, reopen: Callable[..., Database], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's notification wakes the dispatcher, which would otherwise not look for an hour."""
    monkeypatch.setattr(watching, "EVERY", 3600.0)
    monkeypatch.setattr(sessions, "SWEEP", 3600.0)
    database = reopen()
    other = House(database, Outbox(database))
    house.endpoint(receiver.url)
    with house.dispatching():
        for count in range(1, 4):
            other.publish([f"user{count}"])
            receiver.wait(count)
