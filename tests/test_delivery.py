"""What becomes of deliveries after a try: every decision, as properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook.delivery import (
    DEAD,
    DELIVERED,
    ERRORS,
    KEPT_OF_SUCCESS,
    PENDING,
    Delivery,
    Outcome,
    Settlement,
    Verdict,
    settle,
)  # fmt: skip
from marzhook.event import Event
from marzhook.request import MAX_RESPONSE, Response
from marzhook.retry import RetryPolicy

AT = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = Event(1, "user_created", "alice", 1.0)
OK = Outcome(Verdict.ACCEPTED)
DELIVERIES = st.builds(
    lambda tries, before, event_id: Delivery(1, Event(event_id, "user_created", "alice", 1.0), tries, tries + before),
    st.integers(0, 12), st.integers(0, 30), st.integers(1, 10**9),
)  # fmt: skip
RESPONSES = st.builds(
    lambda duration, status, error, body: Response(
        AT, duration, None if error else status, {}, body, error, "why" if error else ""
    ),
    st.floats(0, 600), st.integers(100, 599), st.none() | st.sampled_from(ERRORS), st.binary(max_size=50),
)  # fmt: skip


def one(delivery: Delivery, response: Response, outcome: Outcome, policy: RetryPolicy | None = None) -> Settlement:
    (settlement,) = settle([delivery], response, outcome, policy or RetryPolicy(jitter=0.0), random=0.0)
    return settlement


@given(
    deliveries=st.lists(DELIVERIES, min_size=1, max_size=8), response=RESPONSES,
    verdict=st.sampled_from(Verdict), asked=st.none() | st.floats(0, 86400), random=st.floats(0, 1, exclude_max=True),
    times=st.integers(0, 10),
)  # fmt: skip
def test_every_try_is_decided(
    deliveries: list[Delivery], response: Response, verdict: Verdict, asked: float | None, random: float, times: int
) -> None:
    """Each delivery of a request gets one settlement that the tables can hold: delivered, dead, or pending with a time
    that is not before the schedule's nor the receiver's; its attempt bears the next number."""
    policy = RetryPolicy.fixed(times, 60)
    settlements = settle(deliveries, response, Outcome(verdict, asked), policy, random=random)
    assert [s.delivery for s in settlements] == deliveries
    for delivery, s in zip(deliveries, settlements, strict=True):
        assert s.attempt.number == delivery.attempts + 1
        assert s.attempt.number >= s.tries >= 0
        assert (s.attempt.status is None) != (s.attempt.error is None)
        assert (s.due_at is None) == (s.state != PENDING)
        if verdict is Verdict.ACCEPTED:
            assert (s.state, s.tries) == (DELIVERED, delivery.tries)
            continue
        assert s.tries == delivery.tries + 1
        assert s.state == (DEAD if s.tries > times else PENDING)
        if s.due_at is not None:
            wait = timedelta(seconds=max(60.0, asked or 0.0))
            assert abs(s.due_at - AT - timedelta(seconds=response.duration) - wait) <= timedelta(microseconds=2)


def test_a_delivery_lives_through_its_schedule() -> None:
    """A receiver that never accepts gets ten tries; then the delivery is dead."""
    delivery, states = Delivery(1, EVENT), []
    while not states or states[-1] == PENDING:
        s = one(delivery, Response(AT, 0.1, 500), Outcome(Verdict.FAILED))
        states.append(s.state)
        delivery = Delivery(1, EVENT, s.tries, s.attempt.number, s.due_at)
    assert states == [PENDING] * 9 + [DEAD]
    assert (delivery.tries, delivery.attempts) == (10, 10)


def test_after_a_replay_numbers_go_on() -> None:
    """A replayed delivery starts its tries anew; its attempts go on being numbered."""
    s = one(Delivery(1, EVENT, 0, 10), Response(AT, 0.1, error="timeout"), Outcome(Verdict.FAILED))
    assert (s.tries, s.attempt.number, s.state) == (1, 11, PENDING)


def test_the_wait_begins_when_the_try_has_ended() -> None:
    """A receiver that took 15 s to fail is asked again 5 s after that, not 5 s after the request began."""
    s = one(Delivery(1, EVENT), Response(AT, 15.0, error="timeout"), Outcome(Verdict.FAILED))
    assert s.due_at == AT + timedelta(seconds=20)


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.FAILED])
def test_what_is_kept_of_an_answer(verdict: Verdict) -> None:
    """A success keeps the head of its body, a failure all that was read; both as text that any database takes."""
    s = one(Delivery(1, EVENT), Response(AT, 0.1, 200, {}, b"\0\xff" + b"x" * (MAX_RESPONSE - 2)), Outcome(verdict))
    kept = KEPT_OF_SUCCESS if verdict is Verdict.ACCEPTED else MAX_RESPONSE
    assert s.attempt.response == "��" + "x" * (kept - 2)
    assert s.attempt.response.encode()


@given(body=st.binary(max_size=200))
def test_any_body_becomes_text(body: bytes) -> None:
    """Whatever a receiver answers, what is kept is text without NUL that goes into UTF-8."""
    kept = one(Delivery(1, EVENT), Response(AT, 0.1, 500, {}, body), OK).attempt.response
    assert "\0" not in kept
    assert kept.encode("utf-8", "strict").decode() == kept


@given(message=st.text(st.characters(), max_size=50))
def test_any_message_becomes_text(message: str) -> None:
    """An error's words, which may quote what a receiver sent, are kept as text that any database takes."""
    kept = one(Delivery(1, EVENT), Response(AT, 0.1, None, error="protocol", message=message), OK).attempt.message
    assert "\0" not in kept
    assert kept.encode("utf-8", "strict").decode() == kept
