"""Settlements without a receiver: what the outbox is told after a try."""

from __future__ import annotations

from marzhook.delivery import DEAD, DELIVERED, PENDING, STANDARD, Attempt, Delivery, Settlement
from marzhook.testing import FakeClock


def settlement(delivery: Delivery, state: str, status: int, clock: FakeClock) -> Settlement:
    """What a try of the delivery that ended in `state` leaves for the outbox to write."""
    number = delivery.attempts + 1
    attempt = Attempt(
        number, clock.now(), 0.25, status, None, "", f"answer {number}", None if state == DELIVERED else STANDARD
    )
    tries = delivery.tries + (state != DELIVERED)
    due = clock.now().replace(year=2030) if state == PENDING else None
    assert state in (PENDING, DELIVERED, DEAD)
    return Settlement(delivery, attempt, state, tries, due)
