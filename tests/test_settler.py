"""The settler's small notes, in their turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime

import pytest

from dispatching import CLOCK, House
from marzhook.delivery import DELIVERED, Delivery, Settlement
from marzhook.dispatch import settler
from marzhook.errors import OwnershipLostError, StoreBusyError
from marzhook.testing import FakeClock
from settling import settlement


def done_after(house: House, action: Callable[[], None]) -> bool:
    """Whether the settler does what comes after `action`."""
    writer = settler.Settler(house.outbox, CLOCK, lambda _: None)
    writer.start()
    came = threading.Event()
    writer.call(action)
    writer.call(came.set)
    try:
        return came.wait(10)
    finally:
        writer.stop(timeout=5)


def test_a_note_waits_for_a_locked_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """That an endpoint is disabled, say: nobody would find it out a second time."""
    monkeypatch.setattr(settler, "RETRY_EVERY", 0.01)
    locked = [True, True]
    written = []

    def write() -> None:
        if locked:
            locked.pop()
            raise StoreBusyError("locked")
        written.append(1)

    assert done_after(house, write)
    assert written == [1]


def test_each_reason_to_wait_is_told_once(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that follows another: a database that is back without room for more, say."""
    monkeypatch.setattr(settler, "RETRY_EVERY", 0.01)
    reasons = ["away", "away", "full", "full"]

    def write() -> None:
        if reasons:
            reason = reasons.pop(0)
            raise StoreBusyError(reason, code="database_unreachable" if reason == "away" else "disk_full")

    assert done_after(house, write)
    assert [vars(record)["fields"] for record in caplog.records if record.levelname == "WARNING"] == [
        {"reason": "full"}
    ]


@pytest.mark.parametrize("ended", [OwnershipLostError("another has it"), RuntimeError("unheard of")])
def test_what_is_given_up_is_waited_for_no_more(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ended: Exception
) -> None:
    """A settlement, or a note, that waited and then cannot be written: nobody says that it was, nor that it waits still."""
    monkeypatch.setattr(settler, "RETRY_EVERY", 0.01)
    caplog.set_level("INFO", "marzhook")
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    [owed] = house.outbox.window(1, after=0, limit=9)
    writer = settler.Settler(house.outbox, CLOCK, lambda _: None)

    def fails(errors: list[Exception]) -> Callable[..., None]:
        def write(*_: object, **__: object) -> None:
            raise errors.pop(0)

        return write

    monkeypatch.setattr(house.outbox, "settle", fails([StoreBusyError("locked"), ended]))
    writer.start()
    for wait in (
        lambda: writer.put([settlement(owed, DELIVERED, 200, FakeClock())]),
        lambda: writer.call(fails([StoreBusyError("locked"), ended])),
    ):
        wait()
        came, troubles = threading.Event(), []
        writer.call(lambda troubles=troubles: troubles.append(writer.trouble))
        writer.call(came.set)
        assert came.wait(10)
        assert troubles == [None]
    assert writer.stop(timeout=10)
    assert not [message for message in caplog.messages if "is written" in message]


def test_a_note_that_cannot_be_written_stops_nothing(house: House) -> None:
    """Settling goes on after an error that nobody thought of."""

    def write() -> None:
        raise RuntimeError("unheard of")

    assert done_after(house, write)


def poisonous(house: House, monkeypatch: pytest.MonkeyPatch) -> list[Delivery]:
    """Three deliveries, of which the second cannot be settled."""
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["a", "b", "c"])
    owed = house.outbox.window(1, after=0, limit=9)
    really = house.outbox.settle

    def settle(settlements: Sequence[Settlement], *, now: datetime) -> None:
        if any(s.delivery.event.username == "b" for s in settlements):
            raise ValueError("unheard of")
        really(settlements, now=now)

    monkeypatch.setattr(house.outbox, "settle", settle)
    return owed


def test_a_settlement_that_cannot_be_written_is_not_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are written; the dispatcher hears of all three, or it would wait for the one for ever."""
    owed = poisonous(house, monkeypatch)
    told: list[Settlement] = []
    writer = settler.Settler(house.outbox, CLOCK, told.extend)
    writer.start()
    writer.put([settlement(delivery, DELIVERED, 200, FakeClock()) for delivery in owed])
    assert writer.stop(timeout=10)
    assert [s.delivery.event.username for s in told] == ["a", "b", "c"]
    assert house.count("pending") == 1
    assert house.states() == {"delivered": 2}


def test_who_is_told_of_a_commit_cannot_end_the_settler(house: House) -> None:
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["a", "b"])

    def told(_: Sequence[Settlement]) -> None:
        raise RuntimeError("the log's disk is full")

    writer = settler.Settler(house.outbox, CLOCK, told)
    writer.start()
    for delivery in house.outbox.window(1, after=0, limit=9):
        writer.put([settlement(delivery, DELIVERED, 200, FakeClock())])
        writer.call(lambda: None)
    assert writer.stop(timeout=10)
    assert house.count("pending") == 0
