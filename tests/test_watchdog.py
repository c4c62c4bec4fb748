"""The watchdog notices what is late and leaves alone what waits on purpose."""

from __future__ import annotations

import json
from datetime import timedelta

from dispatching import CLOCK, House
from marzhook.dispatch.watchdog import Watchdog
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox


def published(house: House) -> list[tuple[str, dict[str, object]]]:
    with house.database.read() as conn:
        rows = conn.exec_driver_sql("SELECT action, detail FROM events WHERE action = 'deliveries_stalled'").all()
    return [(row[0], json.loads(row[1])) for row in rows]


def test_a_delivery_that_is_due_for_a_minute_is_told_once(database: Database, outbox: Outbox) -> None:
    """Readiness says it, an operator event goes to the other endpoints, and neither is repeated while it lasts."""
    house = House(database, outbox)
    stuck, _ = house.endpoint("http://127.0.0.1:9/"), house.endpoint("http://127.0.0.1:10/")
    with database.write() as tx:
        outbox.publish(tx, [house.event("anna")], now=CLOCK.now(), only_to=stuck.id)
    dog = Watchdog(database, outbox, CLOCK, resting=set)
    dog.look(CLOCK.now())
    dog.look(CLOCK.now() + timedelta(seconds=50))
    assert dog.trouble == []
    for _ in range(3):
        dog.look(CLOCK.now() + timedelta(seconds=70))
    assert len(dog.trouble) == 1
    assert "endpoint 1" in dog.trouble[0]
    assert [detail["endpoint"]["id"] for _, detail in published(house)] == [stuck.id]
    assert house.count("pending", f"endpoint_id = {stuck.id}") == 1


def test_what_waits_on_purpose_is_no_trouble(database: Database, outbox: Outbox) -> None:
    """An open breaker, a disabled endpoint, a retry in an hour, and what waits behind that retry are left alone."""
    house = House(database, outbox)
    broken, disabled, waiting = (house.endpoint(f"http://127.0.0.1:{port}/") for port in (9, 10, 11))
    house.publish(["anna", "anna"])
    with database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE endpoints SET enabled = 0 WHERE id = ?", (disabled.id,))
        tx.conn.exec_driver_sql(
            "UPDATE pending SET due_at = ?, tries = 1, attempts = 1 WHERE endpoint_id = ? AND event_id = 1",
            ((CLOCK.now() + timedelta(hours=1)).timestamp(), waiting.id),
        )
    dog = Watchdog(database, outbox, CLOCK, resting=lambda: {broken.id})
    dog.look(CLOCK.now())
    dog.look(CLOCK.now() + timedelta(minutes=10))
    assert dog.trouble == []
    assert published(house) == []


def test_it_recovers_by_itself(database: Database, outbox: Outbox) -> None:
    """When the late delivery is gone, readiness is green again, and a later stall is told anew."""
    house = House(database, outbox)
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    dog = Watchdog(database, outbox, CLOCK, resting=set)
    dog.look(CLOCK.now())
    later = CLOCK.now() + timedelta(minutes=2)
    dog.look(later)
    assert dog.trouble
    with database.write() as tx:
        tx.conn.exec_driver_sql("DELETE FROM pending")
    dog.look(later)
    assert dog.trouble == []
    house.publish(["bert"])
    dog.look(later)
    assert len(published(house)) == 2


def test_an_endpoint_that_is_back_has_time_to_catch_up(database: Database, outbox: Outbox) -> None:
    """A backlog of an hour's outage is no stall in the first minute after it."""
    house = House(database, outbox)
    endpoint = house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    resting = {endpoint.id}
    dog = Watchdog(database, outbox, CLOCK, resting=lambda: resting)
    back = CLOCK.now() + timedelta(hours=1)
    dog.look(back)
    resting.clear()
    for seconds, expected in ((1, 0), (59, 0), (70, 1)):
        dog.look(back + timedelta(seconds=seconds))
        assert len(dog.trouble) == expected, seconds
