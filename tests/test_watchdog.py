"""The watchdog notices what is late and leaves alone what waits on purpose."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dispatching import House
from marzhook.dispatch.watchdog import Watchdog
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock, eventually
from marzhook.transport import local
from marzhook.transport.carriers import Carriers


def published(house: House) -> list[tuple[str, dict[str, object]]]:
    with house.database.read() as conn:
        rows = conn.exec_driver_sql("SELECT action, detail FROM events WHERE action = 'deliveries_stalled'").all()
    return [(row[0], json.loads(row[1])) for row in rows]


def test_a_delivery_that_is_due_for_a_minute_is_told_once(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """Readiness says it, an operator event goes to the other endpoints, and neither is repeated while it lasts."""
    house = House(database, outbox, clock)
    stuck, _ = house.endpoint("http://127.0.0.1:9/"), house.endpoint("http://127.0.0.1:10/")
    with database.write() as tx:
        outbox.publish(tx, [house.event("anna")], now=clock.now(), only_to=stuck.id)
    dog = Watchdog(database, outbox, clock, resting=set)
    dog.look()
    clock.advance(50)
    dog.look()
    assert dog.trouble == []
    clock.advance(20)
    for _ in range(3):
        dog.look()
    assert len(dog.trouble) == 1
    assert "endpoint 1" in dog.trouble[0]
    assert [detail["endpoint"]["id"] for _, detail in published(house)] == [stuck.id]
    assert house.count("pending", f"endpoint_id = {stuck.id}") == 1


def test_what_waits_on_purpose_is_no_trouble(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """An open breaker, a disabled endpoint, a retry in an hour, and what waits behind that retry are left alone."""
    house = House(database, outbox, clock)
    broken, disabled, waiting = (house.endpoint(f"http://127.0.0.1:{port}/") for port in (9, 10, 11))
    house.publish(["anna", "anna"])
    with database.write() as tx:
        endpoints.disable(tx, disabled.id, "by hand")
        tx.conn.execute(
            sa.text(
                "UPDATE pending SET due_at = :at, tries = 1, attempts = 1 WHERE endpoint_id = :id AND event_id = 1"
            ),
            {"at": (clock.now() + timedelta(hours=1)).timestamp(), "id": waiting.id},
        )
    dog = Watchdog(database, outbox, clock, resting=lambda: {broken.id})
    dog.look()
    clock.advance(600)
    dog.look()
    assert dog.trouble == []
    assert published(house) == []


def test_it_recovers_by_itself(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """When the late delivery is gone, readiness is green again, and a later stall is told anew."""
    house = House(database, outbox, clock)
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    dog = Watchdog(database, outbox, clock, resting=set)
    dog.look()
    clock.advance(120)
    dog.look()
    assert dog.trouble
    with database.write() as tx:
        tx.conn.exec_driver_sql("DELETE FROM pending")
    dog.look()
    assert dog.trouble == []
    house.publish(["bert"])
    clock.advance(120)
    dog.look()
    assert len(published(house)) == 2


def test_an_endpoint_that_is_back_has_time_to_catch_up(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """A backlog of an hour's outage is no stall in the first minute after it."""
    house = House(database, outbox, clock)
    endpoint = house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    resting = {endpoint.id}
    dog = Watchdog(database, outbox, clock, resting=lambda: resting)
    clock.advance(3600)
    dog.look()
    resting.clear()
    for seconds, expected in ((1, 0), (58, 0), (11, 1)):
        clock.advance(seconds)
        dog.look()
        assert len(dog.trouble) == expected, seconds


def test_a_clock_that_is_set_is_no_stall(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """Set an hour forward, the wall clock makes whatever is owed look an hour old: nobody is alarmed for that. What does not
    move within the next minute is told."""
    house = House(database, outbox, clock)
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    dog = Watchdog(database, outbox, clock, resting=set)
    dog.look()
    for jump in (3600, -3600, 3600):
        clock.advance(5)
        clock.jump(jump)
        dog.look()
        assert dog.trouble == []
    for seconds, expected in ((50, 0), (11, 1)):
        clock.advance(seconds)
        dog.look()
        assert len(dog.trouble) == expected, seconds


def test_an_alert_to_many_is_no_stall(
    database: Database, outbox: Outbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipients are told one after the other, which may take minutes; what comes behind it waits for a reason."""
    begun, done = threading.Event(), threading.Event()

    def alert(*_: object) -> tuple[int, None, str]:
        begun.set()
        assert done.wait(20)
        return 0, None, ""

    monkeypatch.setattr(local, "alert", alert)
    house = House(database, outbox)
    house.endpoint("mailto://user:password@example.com?to=one@example.com,two@example.com", kind="alert")
    with house.dispatching(transport=Carriers(house.clock)) as dispatcher:
        watchdog = Watchdog(database, outbox, clock, resting=dispatcher.resting)
        house.publish(["anna", "berta"])
        dispatcher.wake()
        assert begun.wait(20)
        clock.jump(-clock.now().timestamp() + house.clock.now().timestamp())
        for _ in range(3):
            clock.advance(61)
            watchdog.look()
        assert watchdog.trouble == []
        # But longer than one alert can take at the most.
        clock.advance(300)
        watchdog.look()
        assert len(watchdog.trouble) == 1
        done.set()
        eventually(lambda: house.count("pending") == 0)
