"""The outbox: its verbs are the transitions of a delivery's life. Written for any backend: it knows the fixture `database`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING, Attempt, Delivery, Settlement
from marzhook.event import Event, NewEvent
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.testing import FakeClock, counting


class Store:
    """What the tests do to a store, in few words."""

    def __init__(self, database: Database, outbox: Outbox, clock: FakeClock) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock

    def endpoint(self, **values: Any) -> int:
        with self.database.write() as tx:
            return endpoints.create(tx, now=self.clock.now(), kind="webhook", url="http://x/", **values).id

    def publish(
        self, *usernames: str, action: str = "user_created", only_to: int | None = None, **detail: Any
    ) -> list[int]:
        new = [NewEvent(action, name, detail) for name in usernames]
        with self.database.write() as tx:
            return self.outbox.publish(tx, new, now=self.clock.now(), only_to=only_to)

    def owed(self, endpoint_id: int) -> list[int]:
        return [one.event.id for one in self.outbox.window(endpoint_id, after=0, limit=10_000)]

    def one(self, endpoint_id: int, event_id: int) -> Delivery:
        (delivery,) = self.outbox.load(endpoint_id, [event_id])
        return delivery

    def settlement(self, delivery: Delivery, state: str, *, due: float | None = None) -> Settlement:
        failed = state != DELIVERED
        status = 500 if failed else 200
        attempt = Attempt(delivery.attempts + 1, self.clock.now(), 0.1, status, None, "", "body")
        due_at = self.clock.now() + timedelta(seconds=due or 5) if state == PENDING else None
        return Settlement(delivery, attempt, state, delivery.tries + failed, due_at)

    def settle(self, *settlements: Settlement) -> None:
        self.outbox.settle(settlements, now=self.clock.now())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.read() as conn:
            return [tuple(row) for row in conn.execute(sa.text(query))]

    def settled(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT endpoint_id, event_id, state, tries, attempts FROM settled ORDER BY 1, 2")

    def numbers(self, event_id: int) -> list[int]:
        return [row[0] for row in self.rows(f"SELECT number FROM attempts WHERE event_id = {event_id} ORDER BY 1")]

    def cancel(self, limit: int = 5000, **which: Any) -> int:
        with self.database.write() as tx:
            return self.outbox.cancel(tx, DeliveryFilter(**which), now=self.clock.now(), limit=limit)

    def replay(self, limit: int = 5000, **which: Any) -> int:
        with self.database.write() as tx:
            return self.outbox.replay(tx, DeliveryFilter(**which), now=self.clock.now(), limit=limit)

    def revision(self, endpoint_id: int) -> int:
        with self.database.read() as conn:
            return endpoints.get(conn, endpoint_id).revision


@pytest.fixture
def store(database: Database, outbox: Outbox, clock: FakeClock) -> Store:
    return Store(database, outbox, clock)


# -- publish


def test_ids_grow_and_everything_comes_back(store: Store) -> None:
    """Ids grow in the order of publishing, and an event is read as it was written, to the microsecond."""
    e = store.endpoint()
    store.clock.advance(0.123456)
    detail = {"by": None, "ü": [1.5, "\u202e", {"x": 2**53}]}
    with store.database.write() as tx:
        first = store.outbox.publish(tx, [NewEvent("user_created", "مرزبان 😀", detail)], now=store.clock.now())
        second = store.outbox.publish(
            tx, [NewEvent("user_deleted", '"[7]'), NewEvent("x.y", "7")], now=store.clock.now()
        )
    ids = first + second
    assert ids == sorted(set(ids))
    read = store.outbox.window(e, after=0, limit=10)
    assert [one.event.id for one in read] == ids
    assert read[0].event.detail == detail
    assert read[1] == Delivery(e, Event(ids[1], "user_deleted", '"[7]', store.clock.now().timestamp()))
    assert store.publish() == []


def test_each_endpoint_is_owed_what_it_wants(store: Store) -> None:
    """The filter decides; an empty one wants nothing; a disabled endpoint is owed too; deleted and removed ones are not."""
    everything, nothing = store.endpoint(), store.endpoint(actions=frozenset())
    some = store.endpoint(actions=frozenset({"user_deleted", "user_limited"}))
    paused, removed, deleted = store.endpoint(), store.endpoint(), store.endpoint()
    with store.database.write() as tx:
        endpoints.disable(tx, paused, "by hand")
        endpoints.disable(tx, removed, endpoints.REMOVED)
        endpoints.delete(tx, deleted, now=store.clock.now())
    (created,) = store.publish("u")
    (gone,) = store.publish("u", action="user_deleted")
    assert store.owed(everything) == store.owed(paused) == [created, gone]
    assert store.owed(some) == [gone]
    assert store.owed(nothing) == store.owed(removed) == store.owed(deleted) == []


def test_a_test_event_goes_to_one_endpoint_alone(store: Store) -> None:
    """`only_to` names the only endpoint that is owed the event, whatever its filter."""
    one, other = store.endpoint(actions=frozenset({"user_deleted"})), store.endpoint()
    ids = store.publish("u", only_to=one)
    assert (store.owed(one), store.owed(other)) == (ids, [])


def test_a_rollback_leaves_nothing(store: Store) -> None:
    """What fails after publishing takes the events with it, wakes nobody, and the next ids are whole again."""
    e = store.endpoint()
    woken: list[int] = []
    store.outbox.on_publish(lambda: woken.append(1))
    with counting("publish.after_commit") as committed:
        with pytest.raises(ZeroDivisionError), store.database.write() as tx:
            assert store.outbox.publish(tx, [NewEvent("user_created", "u")], now=store.clock.now()) == [1 / 0]
        assert store.rows("SELECT count(*) FROM events") == [(0,)]
        assert (store.owed(e), committed.count, woken) == ([], 0, [])
        assert store.publish("u") == store.owed(e)
        assert (committed.count, woken) == (1, [1])


def test_ids_are_never_used_again(store: Store) -> None:
    """When the newest events were deleted, the next one does not get their ids: receivers know events by them."""
    store.endpoint()
    ids = store.publish("a", "b", "c")
    with store.database.write() as tx:
        tx.conn.execute(sa.text("DELETE FROM pending"))
        tx.conn.execute(sa.text("DELETE FROM events"))
    assert store.publish("d")[0] > ids[-1]


# -- window, following, load, behind


def test_a_window_moves_forward(store: Store) -> None:
    """A window shows what is owed behind its cursor, oldest first, at most `limit`, of its own endpoint only."""
    e, other = store.endpoint(), store.endpoint(actions=frozenset({"never"}))
    ids = store.publish(*"abcdefg")
    seen: list[int] = []
    while page := store.outbox.window(e, after=seen[-1] if seen else 0, limit=3):
        assert len(page) <= 3
        seen += [one.event.id for one in page]
    assert seen == ids
    assert store.outbox.window(other, after=0, limit=10) == store.outbox.window(99, after=0, limit=10) == []


def test_following_finds_what_lanes_lack(store: Store) -> None:
    """For each user the next events behind the given one; what is settled, of others, or not owed, is left out."""
    e = store.endpoint(actions=frozenset({"user_created"}))
    store.endpoint()
    ids = store.publish("7", "ü", "7", "x", "7", "ü", "7")
    store.publish("7", action="user_deleted")
    store.settle(store.settlement(store.one(e, ids[2]), DELIVERED))

    def following(lanes: Sequence[tuple[str, int]], limit: int = 10) -> list[int]:
        return [one.event.id for one in store.outbox.following(e, lanes, limit=limit)]

    assert following([("7", ids[0])]) == [ids[4], ids[6]]
    assert following([("7", 0)], limit=2) == [ids[0], ids[4]]
    assert following([("ü", ids[1]), ("7", ids[0]), ("nobody", 0)], limit=1) == [ids[4], ids[5]]
    assert following([("x", ids[3])]) == following([]) == following([("7", 2**40)]) == []


def test_load_gives_those_still_owed(store: Store) -> None:
    """Named deliveries come with their tries and due time, oldest first; what is settled or unknown does not."""
    e = store.endpoint()
    a, b, c = store.publish("a", "b", "c")
    store.settle(store.settlement(store.one(e, b), PENDING, due=7.25), store.settlement(store.one(e, c), DELIVERED))
    loaded = store.outbox.load(e, [c, b, a, 999])
    assert [one.event.id for one in loaded] == [a, b]
    assert (loaded[1].tries, loaded[1].attempts) == (1, 1)
    assert loaded[1].due_at == store.clock.now() + timedelta(seconds=7.25)
    assert store.outbox.load(e, []) == []


def test_behind_tells_who_has_more(store: Store) -> None:
    """Of the endpoints' cursors, those with something newer."""
    one, two, three = store.endpoint(), store.endpoint(), store.endpoint(actions=frozenset())
    a, b = store.publish("a", "b")
    assert store.outbox.behind({one: a, two: b, three: 0, 99: 0}) == [one]
    assert sorted(store.outbox.behind({one: 0, two: 0})) == [one, two]
    assert store.outbox.behind({}) == []


# -- settle


def test_settling_moves_deliveries(store: Store) -> None:
    """Delivered and dead ones leave the backlog, failed ones stay with their time; every try is kept."""
    e, other = store.endpoint(), store.endpoint()
    a, b, c = store.publish("a", "b", "c")
    store.settle(
        store.settlement(store.one(e, a), DELIVERED), store.settlement(store.one(other, a), DEAD),
        store.settlement(store.one(e, b), DEAD), store.settlement(store.one(e, c), PENDING),
    )  # fmt: skip
    assert store.settled() == [(e, a, DELIVERED, 0, 1), (e, b, DEAD, 1, 1), (other, a, DEAD, 1, 1)]
    assert (store.owed(e), store.owed(other)) == ([c], [b, c])
    assert store.rows("SELECT endpoint_id, event_id, number, status, error, response FROM attempts ORDER BY 1, 2") == [
        (e, a, 1, 200, None, "body"), (e, b, 1, 500, None, "body"), (e, c, 1, 500, None, "body"),
        (other, a, 1, 500, None, "body"),
    ]  # fmt: skip


def test_settling_twice_is_settling_once(store: Store) -> None:
    """A batch whose commit's answer was lost can be written again: one state, one attempt, also twice in one batch."""
    e = store.endpoint()
    a, b = store.publish("a", "b")
    batch = [store.settlement(store.one(e, a), DELIVERED), store.settlement(store.one(e, b), PENDING)]
    store.settle(*batch, *batch)
    store.settle(*batch)
    assert store.settled() == [(e, a, DELIVERED, 0, 1)]
    assert (store.one(e, b).tries, store.numbers(a), store.numbers(b)) == (1, [1], [1])


def test_a_failure_and_the_success_after_it_in_one_batch(store: Store) -> None:
    """Where a retry was quicker than the disk, both tries are kept and the last one decides."""
    e = store.endpoint()
    (a,) = store.publish("a")
    failed = store.settlement(store.one(e, a), PENDING)
    again = Delivery(e, failed.delivery.event, failed.tries, failed.attempt.number)
    store.settle(failed, store.settlement(again, DELIVERED))
    assert (store.settled(), store.owed(e), store.numbers(a)) == ([(e, a, DELIVERED, 1, 2)], [], [1, 2])


def test_a_batch_is_all_or_nothing(store: Store) -> None:
    """Where one settlement cannot be written, none is."""
    e = store.endpoint()
    a, b = store.publish("a", "b")
    impossible = Settlement(store.one(e, b), store.settlement(store.one(e, b), DEAD).attempt, "lost", 1)
    with pytest.raises(sa.exc.IntegrityError):
        store.settle(store.settlement(store.one(e, a), DELIVERED), impossible)
    assert (store.owed(e), store.settled(), store.numbers(a)) == ([a, b], [], [])


@pytest.mark.parametrize("state", [DELIVERED, DEAD, PENDING])
def test_an_answer_that_comes_after_a_cancel(store: Store, state: str) -> None:
    """What was cancelled on its way stays cancelled; the try counts, and after a replay the next one has its own number."""
    e = store.endpoint()
    (a,) = store.publish("a")
    on_its_way = store.one(e, a)
    assert store.cancel() == 1
    store.settle(store.settlement(on_its_way, state))
    assert (store.settled(), store.owed(e), store.numbers(a)) == ([(e, a, CANCELLED, 0, 1)], [], [1])
    assert store.replay() == 1
    store.settle(store.settlement(store.one(e, a), DELIVERED))
    assert (store.settled(), store.numbers(a)) == ([(e, a, DELIVERED, 0, 2)], [1, 2])


# -- cancel, replay, hasten


def test_cancel_by_filter_and_in_portions(store: Store) -> None:
    """Only what the filter means is cancelled, oldest first, as many as asked for; then there is nothing left to cancel."""
    e, other = store.endpoint(), store.endpoint()
    ids = store.publish("a", "b", "a")
    assert store.cancel(endpoint_id=e, username="a", limit=1) == 1
    assert (store.owed(e), store.owed(other)) == ([ids[1], ids[2]], ids)
    assert store.cancel(endpoint_id=e, username="a") == 1
    assert store.cancel(endpoint_id=e, username="a") == 0
    assert store.cancel(event_id=ids[1]) == 2
    assert store.cancel(actions=("user_deleted",)) == 0
    assert (store.owed(e), store.owed(other)) == ([], [ids[0], ids[2]])


def test_a_filter_by_state_holds_for_what_is_pending_too(store: Store) -> None:
    """Cancelling the dead cancels nothing, for they are at their end; cancelling what is pending or dead, what is pending."""
    e = store.endpoint()
    a, b = store.publish("a", "b")
    store.settle(store.settlement(store.one(e, a), DEAD))
    assert store.cancel(states=(DEAD,)) == 0
    with store.database.write() as tx:
        assert store.outbox.hasten(tx, DeliveryFilter(states=(DELIVERED,)), now=store.clock.now()) == 0
    assert store.owed(e) == [b]
    assert store.cancel(states=(PENDING, DEAD)) == 1
    assert (store.owed(e), [row[2] for row in store.settled()]) == ([], [DEAD, CANCELLED])


def test_times_of_a_filter_are_half_open(store: Store) -> None:
    """An event at `since` is meant, one at `until` is not."""
    e = store.endpoint()
    ids, times = [], []
    for name in "abc":
        times.append(store.clock.now())
        ids += store.publish(name)
        store.clock.advance(0.000001)
    assert store.cancel(since=times[1], until=times[2]) == 1
    assert store.owed(e) == [ids[0], ids[2]]


def test_replay_begins_anew_and_keeps_counting(store: Store) -> None:
    """Dead and cancelled ones are owed again from their first try; their attempts go on; delivered ones only if asked."""
    e = store.endpoint()
    a, b, c = store.publish("a", "b", "c")
    store.settle(store.settlement(store.one(e, a), DEAD), store.settlement(store.one(e, b), DELIVERED))
    store.cancel(event_id=c)
    before = store.revision(e)
    store.clock.advance(86_400)
    assert store.replay() == 2
    assert store.revision(e) > before, "the window's cursor has passed them: the dispatcher must look again"
    assert store.owed(e) == [a, c]
    again = store.one(e, a)
    # Due since it is replayed, or the watchdog would take it for one that waited since its event.
    assert again == Delivery(e, again.event, 0, 1, again.due_at)
    assert again.due_at == store.clock.now()
    assert store.settled() == [(e, b, DELIVERED, 0, 1)]
    assert store.replay(states=(DELIVERED,)) == 1
    store.settle(store.settlement(store.one(e, a), DELIVERED))
    assert (store.settled(), store.numbers(a)) == ([(e, a, DELIVERED, 0, 2)], [1, 2])


def test_a_long_replay_ends(store: Store) -> None:
    """Replayed in portions, what is settled meanwhile is not replayed once more."""
    e = store.endpoint()
    ids = store.publish("a", "b", "c")
    store.settle(*(store.settlement(store.one(e, i), DEAD) for i in ids))
    store.clock.advance(1)
    began, rounds = store.clock.now(), 0
    while True:
        with store.database.write() as tx:
            count = store.outbox.replay(tx, DeliveryFilter(endpoint_id=e), now=began, settled_before=began, limit=1)
        if not count:
            break
        rounds += 1
        store.clock.advance(1)
        store.settle(*(store.settlement(store.one(e, i), DEAD) for i in store.owed(e)))
    assert rounds == 3


def test_what_cannot_be_sent_is_not_replayed(store: Store) -> None:
    """Deliveries of a deleted endpoint, and of events that were deleted, stay where they are."""
    e, gone = store.endpoint(), store.endpoint()
    a, b = store.publish("a", "b")
    with store.database.write() as tx:
        endpoints.delete(tx, gone, now=store.clock.now())
    store.cancel()
    with store.database.write() as tx:
        tx.conn.execute(sa.text("DELETE FROM events WHERE id = :id"), {"id": a})
    assert store.replay() == 1
    assert store.owed(e) == [b]


def test_hasten_makes_due(store: Store) -> None:
    """A delivery that waits for its time is due at once; its tries stay counted, and the dispatcher is told."""
    e = store.endpoint()
    a, b = store.publish("a", "b")
    store.settle(*(store.settlement(store.one(e, i), PENDING, due=3600) for i in (a, b)))
    before = store.revision(e)
    with store.database.write() as tx:
        assert store.outbox.hasten(tx, DeliveryFilter(event_id=a), now=store.clock.now()) == 1
    assert (store.one(e, a).due_at, store.one(e, a).tries) == (store.clock.now(), 1)
    assert store.one(e, b).due_at == store.clock.now() + timedelta(hours=1)
    assert store.revision(e) > before
    for _ in range(2):
        store.clock.advance(1)
        with store.database.write() as tx:
            assert store.outbox.hasten(tx, DeliveryFilter(event_id=b), now=store.clock.now()) == 1
        with store.database.read() as conn:
            assert store.one(e, b).due_at == endpoints.get(conn, e).hastened_at == store.clock.now()


def test_what_is_hastened_while_it_is_on_its_way_stays_so(store: Store) -> None:
    """A try that fails ends what was asked for before it began, and nothing that was asked for since."""
    e = store.endpoint()
    a, b = store.publish("a", "b")

    def hasten(event_id: int) -> None:
        store.clock.advance(1)
        with store.database.write() as tx:
            assert store.outbox.hasten(tx, DeliveryFilter(event_id=event_id), now=store.clock.now()) == 1

    hasten(a)
    flying = [store.one(e, event_id) for event_id in (a, b)]
    hasten(b)
    store.settle(*(store.settlement(one, PENDING, due=3600) for one in flying))
    assert [(one.tries, one.hastened_at) for one in (store.one(e, a), store.one(e, b))] == [
        (1, None), (1, store.clock.now().timestamp()),
    ]  # fmt: skip
    assert store.one(e, b).due_at == store.clock.now()
    flying = [store.one(e, b)]
    hasten(b)
    store.settle(store.settlement(flying[0], PENDING, due=3600))
    assert store.one(e, b).hastened_at == store.clock.now().timestamp()


def test_credentials_are_kept_only_where_an_endpoint_is_to_get_them(store: Store) -> None:
    """With `detail` none or safe everywhere, a stolen database gives access to no proxy."""
    user = {"note": "vip", "links": ["vless://hush"]}
    reader = store.endpoint()
    (before,) = store.publish("anna", user=user)
    assert store.one(reader, before).event.detail_at("full") == '{"user": {"note": "vip"}}'
    store.endpoint(detail="full")
    (after,) = store.publish("anna", user=user)
    event = store.one(reader, after).event
    assert json.loads(event.detail_at("full")) == {"user": user}
    assert event.detail_at("safe") == '{"user": {"note": "vip"}}'
    assert event.detail_at("none") == ""
