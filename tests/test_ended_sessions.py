"""Work in pieces on PostgreSQL, while the server ends the session in the middle of a piece: each piece is done once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest

from marzhook import operations
from marzhook.delivery import DEAD
from marzhook.sources import registry as registry_module
from marzhook.store import endpoints
from marzhook.store.outbox import DeliveryFilter
from registries import World
from settling import settlement

pytest_plugins = ["registries"]
pytestmark = pytest.mark.postgresql

COUNT: Final = 12
NAMES: Final = [f"user{number:02}" for number in range(COUNT)]
ENDED: Final = """
    CREATE FUNCTION ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('writes')::text = ANY (TG_ARGV) THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
        RETURN NULL;
    END $$"""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "CHUNK", 5)
    monkeypatch.setattr(operations, "REPLAY_CHUNK", 5)


def end_sessions(world: World, *, what: str, table: str, at: tuple[int, int] = (2, 4)) -> None:
    """From now on, two of the statements of this kind are the last ones of their sessions: by default the second and the
    fourth, which are the first ones of two pieces where each piece has one."""
    world.sql("CREATE SEQUENCE writes")  # which counts on also where the transaction is taken back
    world.sql(ENDED)
    world.sql(f"CREATE TRIGGER ended AFTER {what} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION ended{at}")


def writes(world: World) -> int:
    [(count,)] = world.sql("SELECT last_value FROM writes")
    return int(count)


BULK: Final[dict[str, tuple[Callable[[World], Any], list[str]]]] = {
    "reset": (lambda world: world.registry.reset_all(None), ["data_usage_reset"]),
    "disable": (lambda world: world.registry.disable_all("boss", None), ["user_disabled"]),
    "delete": (lambda world: len(world.registry.delete_expired(None, None, None)), ["user_deleted"]),
}


@pytest.mark.parametrize("operation", BULK)
def test_a_bulk_change_is_done_once_for_each(world: World, operation: str) -> None:
    """Three pieces, of which two are cut short: the pieces before are not done again, and the count is right."""
    boss = world.admin("boss", is_sudo=True)
    for name in NAMES:
        world.add(name, by=boss, expire=world.at + 10 if operation == "delete" else 0)
    world.clock.advance(60)
    world.review.pass_once(world.clock.now())
    change, told = BULK[operation]
    before = len(world.events())
    end_sessions(world, what="INSERT", table="events")
    assert change(world) == COUNT
    assert writes(world) == 5
    assert sorted(world.events()[before:]) == sorted((action, name) for action in told for name in NAMES)


def test_a_report_charges_once(world: World) -> None:
    """What was charged before its session was ended was taken back with it."""
    for name in NAMES:
        world.add(name)
    end_sessions(world, what="UPDATE", table="counters")
    for _ in range(3):
        assert world.registry.charge([(name, 7) for name in NAMES]) == []
    assert writes(world) == 5
    assert [world.registry.get(name, None).used_traffic for name in NAMES] == [21] * COUNT


def test_a_replay_goes_on(world: World) -> None:
    """Deliveries are owed again once each, in three pieces of which two are cut short."""
    with world.database.write() as tx:
        endpoint = endpoints.create(tx, now=world.clock.now(), kind="webhook", url="https://shop.example/").id
    for name in NAMES:
        world.add(name)
    owed = world.outbox.window(endpoint, after=0, limit=100)
    world.outbox.settle([settlement(one, DEAD, 503, world.clock) for one in owed], now=world.clock.now())
    world.clock.advance(timedelta(minutes=1).total_seconds())
    # Row by row, so two of them are the second ones of the second and the third piece.
    end_sessions(world, what="INSERT", table="pending", at=(7, 14))
    assert list(operations.replay(world, DeliveryFilter(states=(DEAD,)))) == [5, 5, 2]
    assert writes(world) == 16
    assert [one.event.username for one in world.outbox.window(endpoint, after=0, limit=100)] == NAMES
