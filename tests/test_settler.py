"""The settler's small notes, in their turn."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dispatching import CLOCK, House
from marzhook.dispatch import settler
from marzhook.errors import StoreBusyError


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


def test_a_note_that_cannot_be_written_stops_nothing(house: House) -> None:
    """Settling goes on after an error that nobody thought of."""

    def write() -> None:
        raise RuntimeError("unheard of")

    assert done_after(house, write)
