"""Endpoints on disk: what the environment names, rotation, deletion, and what was learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from marzhook.endpoint import REMOVED, Endpoint
from marzhook.errors import ConflictError, NotFoundError
from marzhook.event import NewEvent
from marzhook.store import endpoints, outages
from marzhook.store.database import Database, Transaction
from marzhook.store.endpoints import Wanted
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock

A = Wanted("webhook", "http://127.0.0.1:9000/", {"name": "a", "format": "event", "secret": "s", "secret_mode": "auto"})
B = Wanted("webhook", "http://127.0.0.1:9001/", {"name": "b"})


def changed(wanted: Wanted, **values: Any) -> Wanted:
    return Wanted(wanted.kind, wanted.url, {**wanted.values, **values})


@pytest.fixture
def sync(database: Database, clock: FakeClock) -> Callable[..., dict[str, Endpoint]]:
    def sync(*wanted: Wanted) -> dict[str, Endpoint]:
        with database.write() as tx:
            endpoints.sync_environment(tx, list(wanted), now=clock.now())
            return {one.name: one for one in endpoints.all_endpoints(tx.conn)}

    return sync


def made(tx: Transaction, clock: FakeClock, **values: Any) -> Endpoint:
    return endpoints.create(tx, now=clock.now(), kind="webhook", url="https://example.com/h", **values)


def test_the_environments_endpoints_are_made_once(sync: Callable[..., dict[str, Endpoint]], clock: FakeClock) -> None:
    """What the settings name becomes an unguarded endpoint with its values; the next start finds it and changes nothing."""
    first = sync(A, B)
    assert (first["a"].secret, first["a"].source, first["a"].guarded) == ("s", "environment", False)
    assert (first["a"].created_at, first["a"].revision, first["a"].enabled) == (clock.now(), 1, True)
    assert first["a"].signing_secret != first["b"].signing_secret
    clock.advance(100)
    assert sync(A, B) == sync(B, A) == first


def test_a_changed_setting_changes_the_endpoint(sync: Callable[..., dict[str, Endpoint]]) -> None:
    """A new value is taken over under the same id and signing secret, and the revision grows."""
    before = sync(A)["a"]
    after = sync(changed(A, format="list", detail="full"))["a"]
    assert after == dataclasses.replace(before, format="list", detail="full", revision=2)


def test_an_address_that_is_gone_keeps_what_it_is_owed(
    sync: Callable[..., dict[str, Endpoint]], database: Database, outbox: Outbox, clock: FakeClock
) -> None:
    """Taken out of the settings, an endpoint is disabled, keeps its backlog and is owed nothing new; back, it goes on."""
    b = sync(A, B)["b"]
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_created", "u1")], now=clock.now())
    gone = sync(A)["b"]
    assert (gone.enabled, gone.disabled_reason) == (False, REMOVED)
    assert sync(A)["b"].revision == gone.revision, "a further start does not write it again"
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_deleted", "u1")], now=clock.now())
    back = sync(A, B)["b"]
    assert (back.id, back.enabled, back.disabled_reason, back.signing_secret) == (b.id, True, None, b.signing_secret)
    assert [one.event.action for one in outbox.window(b.id, after=0, limit=9)] == ["user_created"]


def test_what_an_operator_or_a_receiver_disabled_stays_disabled(
    sync: Callable[..., dict[str, Endpoint]], database: Database
) -> None:
    """A start does not enable an endpoint that answered 410 or that somebody has paused."""
    a = sync(A)["a"]
    with database.write() as tx:
        endpoints.disable(tx, a.id, "answered 410")
    after = sync(changed(A, format="list"))["a"]
    assert (after.enabled, after.disabled_reason, after.format) == (False, "answered 410", "list")


def test_an_address_named_twice_is_one_endpoint(sync: Callable[..., dict[str, Endpoint]], database: Database) -> None:
    """Naming an address twice does not make a further endpoint at every start."""
    for _ in range(3):
        sync(A, changed(A, name="again"), B)
    with database.read() as conn:
        assert len(endpoints.all_endpoints(conn)) == 2


def test_the_same_address_of_another_kind_or_source_is_another(
    sync: Callable[..., dict[str, Endpoint]], database: Database, clock: FakeClock
) -> None:
    """An endpoint that was made over the API is not touched by the settings, even where it has the same URL."""
    with database.write() as tx:
        own = endpoints.create(tx, now=clock.now(), kind="webhook", url=A.url, name="own")
    found = sync(A, Wanted("discord", A.url, {"name": "d"}))
    assert set(found) == {"own", "a", "d"}
    assert sync()["own"] == own
    assert own.guarded


def test_what_was_learned_is_forgotten_with_what_it_was_learned_about(database: Database, clock: FakeClock) -> None:
    """A new URL, secret or mode forgets the learned mode; any other change keeps it."""
    with database.write() as tx:
        one = made(tx, clock, secret="s")
        for values in ({"url": "https://example.com/i"}, {"secret": "t"}, {"secret_mode": "plain"}):
            endpoints.update(tx, one.id, learned_mode="hmac")
            assert endpoints.update(tx, one.id, name="n", enabled=False).learned_mode == "hmac"
            assert endpoints.update(tx, one.id, **values).learned_mode is None
        assert endpoints.update(tx, one.id, secret="u", learned_mode="plain").learned_mode == "plain"


def test_a_changed_secret_in_the_settings_forgets_too(
    sync: Callable[..., dict[str, Endpoint]], database: Database
) -> None:
    """What was learned outlives a restart, but not a new WEBHOOK_SECRET."""
    a = sync(A)["a"]
    with database.write() as tx:
        endpoints.update(tx, a.id, learned_mode="hmac")
    assert sync(A)["a"].learned_mode == "hmac"
    assert sync(changed(A, secret="other"))["a"].learned_mode is None


def test_every_change_raises_the_revision(database: Database, clock: FakeClock) -> None:
    """Whatever is changed, a dispatcher sees a greater revision, and knows that what it read is no longer so."""
    with database.write() as tx:
        one = made(tx, clock)
        assert endpoints.still(tx.conn, one)
        seen = [one.revision]
        for change in (
            lambda: endpoints.update(tx, one.id, name="x"), lambda: endpoints.disable(tx, one.id, "r"),
            lambda: endpoints.enable(tx, one.id, now=clock.now()),
            lambda: endpoints.rotate_secret(tx, one.id, now=clock.now()),
        ):  # fmt: skip
            seen.append(change().revision)
        assert seen == [1, 2, 3, 4, 5]
        assert outages.look(tx.conn) == {one.id: (5, None)}


def test_what_was_found_out_holds_for_the_same_address(database: Database, clock: FakeClock) -> None:
    """A replay or a new name says nothing about the address; another address, secret or switch does, and so does its end."""
    with database.write() as tx:
        one = made(tx, clock)
        assert endpoints.still(tx.conn, one)
        endpoints.update(tx, one.id, name="x")
        assert endpoints.still(tx.conn, one)
        for change in ({"url": "https://example.com/other"}, {"secret": "s"}, {"enabled": False}):
            before = endpoints.get(tx.conn, one.id)
            endpoints.update(tx, one.id, **change)
            assert not endpoints.still(tx.conn, before)
        last = endpoints.get(tx.conn, one.id)
        endpoints.delete(tx, one.id, now=clock.now())
        assert not endpoints.still(tx.conn, last)


def test_rotation_keeps_the_old_secret_for_a_day(database: Database, clock: FakeClock) -> None:
    """Rotating makes a new signing secret and keeps the previous one for 24 hours."""
    with database.write() as tx:
        before = made(tx, clock)
        after = endpoints.rotate_secret(tx, before.id, now=clock.now())
    assert after.signing_secret != before.signing_secret
    assert after.previous_signing_secret == before.signing_secret
    assert after.previous_expires_at == clock.now() + timedelta(hours=24)


def test_all_that_is_set_comes_back(database: Database, clock: FakeClock) -> None:
    """Every column goes to disk and comes back as it was, an empty filter too."""
    for actions in (None, frozenset[str](), frozenset({"user_created", "user_deleted"})):
        with database.write() as tx:
            one = made(tx, clock, name="ü", actions=actions, ordered=False, concurrency=7, detail="full", secret="s")
        with database.read() as conn:
            assert endpoints.get(conn, one.id) == one
        assert (one.actions, one.ordered, one.concurrency, one.detail) == (actions, False, 7, "full")


def test_deleting_cancels_what_is_owed(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """A deleted endpoint is off every list, its deliveries are cancelled, and nothing new is owed to it."""
    with database.write() as tx:
        one, other = made(tx, clock), made(tx, clock)
        outbox.publish(tx, [NewEvent("user_created", "u")], now=clock.now())
    with database.write() as tx:
        endpoints.delete(tx, one.id, now=clock.now())
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_deleted", "u")], now=clock.now())
        assert [e.id for e in endpoints.all_endpoints(tx.conn)] == [other.id]
        states = tx.conn.execute(sa.text("SELECT endpoint_id, state FROM settled")).all()
        assert [tuple(row) for row in states] == [(one.id, "cancelled")]
        for attempt in (
            lambda: endpoints.get(tx.conn, one.id), lambda: endpoints.update(tx, one.id, name="x"),
            lambda: endpoints.delete(tx, one.id, now=clock.now()),
            lambda: endpoints.rotate_secret(tx, one.id, now=clock.now()),
        ):  # fmt: skip
            with pytest.raises(NotFoundError):
                attempt()
        assert not endpoints.still(tx.conn, one)
    assert outbox.window(one.id, after=0, limit=9) == []
    assert len(outbox.window(other.id, after=0, limit=9)) == 2


def test_the_environments_endpoints_are_deleted_in_the_environment(
    sync: Callable[..., dict[str, Endpoint]], database: Database, clock: FakeClock
) -> None:
    """An endpoint that the settings name cannot be deleted; one that they name no longer can, and may come back as new."""
    a = sync(A)["a"]
    with database.write() as tx, pytest.raises(ConflictError, match="WEBHOOK_ADDRESS"):
        endpoints.delete(tx, a.id, now=clock.now())
    sync()
    with database.write() as tx:
        endpoints.delete(tx, a.id, now=clock.now())
    assert sync() == {}
    assert sync(A)["a"].id != a.id
