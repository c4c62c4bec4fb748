"""The circuit breaker, and what people are told of endpoints that fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from marzhook.dispatch.breaker import IN_A_ROW, LAST, LONGEST_PROBE, Breaker
from marzhook.dispatch.health import DISABLED, DISABLED_AFTER, FAILING, LAST_STAGE, notice

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def breaker() -> Breaker:
    return Breaker(lambda: 0.0)


def test_five_failures_in_a_row_open_it() -> None:
    """Four failures are bad luck, the fifth is an outage."""
    b = breaker()
    for _ in range(IN_A_ROW - 1):
        b.failed(0.0)
    assert not b.open
    b.failed(0.0)
    assert b.open
    assert not b.may_send(4.9)
    assert b.may_send(5.0)


def test_half_of_the_last_hundred_open_it() -> None:
    """Every second request failing is an outage too, though no five fail in a row."""
    b = breaker()
    for i in range(LAST):
        if i % 2:
            b.failed(0.0)
        else:
            b.succeeded()
    assert b.open


def test_probes_go_one_at_a_time_and_ever_later() -> None:
    """5 s, 10 s, 20 s … at most 5 minutes; nothing beside the probe."""
    b = breaker()
    for _ in range(IN_A_ROW):
        b.failed(0.0)
    now, waits = 0.0, []
    for _ in range(9):
        waits.append(b.probe_at - now)
        now = b.probe_at
        assert b.may_send(now)
        b.sent()
        assert not b.may_send(now + 1000)
        b.failed(now)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_what_was_on_its_way_does_not_put_the_probe_off() -> None:
    """Thirty requests that fail after it opened count as the same outage."""
    b = breaker()
    for _ in range(IN_A_ROW + 30):
        b.failed(0.0)
    assert b.probe_at == 5.0


def test_a_success_closes_it_and_the_next_outage_starts_anew() -> None:
    """The first accepted request ends the outage; the next one is probed after 5 s again."""
    b = breaker()
    for _ in range(IN_A_ROW):
        b.failed(0.0)
    b.sent()
    assert b.succeeded()
    assert b.may_send(0.0)
    assert not b.succeeded()
    for _ in range(IN_A_ROW):
        b.failed(100.0)
    assert b.probe_at == 105.0


@given(st.floats(0, 10_000), st.floats(0, 0.999))
def test_a_receivers_hint_only_puts_a_probe_off(hint: float, chance: float) -> None:
    """Retry-After never hastens a probe, and jitter stays within a tenth."""
    b = Breaker(lambda: chance)
    for _ in range(IN_A_ROW - 1):
        b.failed(0.0)
    b.failed(0.0, retry_after=hint)
    assert b.probe_at >= max(5.0, hint)
    assert b.probe_at <= max(LONGEST_PROBE * 1.1, hint)


def test_one_event_that_is_refused_again_and_again_is_no_outage() -> None:
    """A poison event alone does not open the breaker; five different ones do."""
    b = breaker()
    for _ in range(50):
        b.rejected(7, 0.0)
    assert not b.open
    for event_id in range(IN_A_ROW):
        b.rejected(100 + event_id, 0.0)
    assert b.open


@given(st.lists(st.booleans(), max_size=300))
def test_it_knows_whether_others_are_accepted(outcomes: list[bool]) -> None:
    """`accepts_others` is true exactly when a success is among the last hundred outcomes since the last recovery."""
    b = breaker()
    recent: list[bool] = []
    for good in outcomes:
        if good:
            if b.succeeded():
                recent.clear()
        else:
            b.failed(0.0)
        recent.append(good)
        assert b.accepts_others == any(recent[-LAST:])


def test_people_are_told_in_stages() -> None:
    """After 15 minutes, at 50, 70 and 90 % of the way, and when it is disabled: each once."""
    told, stage = [], 0
    for hours in range(24 * 6):
        found = notice(SINCE, stage, SINCE + timedelta(hours=hours))
        if found:
            told.append((hours, found.action))
            stage = found.stage
    assert told == [(1, FAILING), (60, FAILING), (84, FAILING), (108, FAILING), (120, DISABLED)]
    assert stage == LAST_STAGE


def test_after_a_long_absence_only_the_latest_is_told() -> None:
    """A service that was off for a week says that the endpoint is disabled, not that it begins to fail."""
    found = notice(SINCE, 0, SINCE + DISABLED_AFTER + timedelta(days=2))
    assert found is not None
    assert found.action == DISABLED


def test_a_probe_that_could_not_be_made_lets_the_next_go() -> None:
    """Nothing was sent, so there is no answer to wait for."""
    b = breaker()
    for _ in range(IN_A_ROW):
        b.failed(0.0)
    b.sent()
    b.not_sent()
    assert b.open
    assert b.may_send(5.0)
