"""When a failed delivery is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marzhook.retry import JITTER, STANDARD_DELAYS, RetryPolicy

RANDOM = st.floats(0, 1, exclude_max=True)
DELAYS = st.lists(st.floats(0.1, 1e6), max_size=12).map(tuple)


def test_the_standard_schedule() -> None:
    """At once, then 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h; the tenth failure is the last."""
    policy = RetryPolicy()
    hours = 3600.0
    expected = [5.0, 300.0, 1800.0, 2 * hours, 5 * hours, 10 * hours, 14 * hours, 20 * hours, 24 * hours, None]
    assert [policy.delay(failed, random=0.0) for failed in range(1, 11)] == expected
    assert policy.delay(1000, random=0.0) is None


def test_the_panels_schedule() -> None:
    """`times` retries, `every` seconds apart, to the second; none at all when `times` is 0."""
    policy = RetryPolicy.fixed(3, 180)
    assert [policy.delay(failed, random=0.9) for failed in range(1, 5)] == [180.0, 180.0, 180.0, None]
    assert RetryPolicy.fixed(0, 180).delay(1, random=0.5) is None


@given(failed=st.integers(1, len(STANDARD_DELAYS)), random=RANDOM)
def test_jitter_stays_within_its_bounds(failed: int, random: float) -> None:
    """A delay is never shorter than the schedule's and at most a tenth longer."""
    planned = STANDARD_DELAYS[failed - 1]
    wait = RetryPolicy().delay(failed, random=random)
    assert wait is not None
    assert planned <= wait <= planned * (1 + JITTER)


@given(delays=DELAYS, failed=st.integers(1, 15), random=RANDOM, asked=st.none() | st.floats(0, 86400))
def test_a_receiver_may_delay_but_not_hasten(
    delays: tuple[float, ...], failed: int, random: float, asked: float | None
) -> None:
    """With Retry-After the wait is the longer of the two, and there is not one try more or less."""
    policy = RetryPolicy(delays)
    alone = policy.delay(failed, random=random)
    both = policy.delay(failed, random=random, retry_after=asked)
    assert (alone is None) == (both is None) == (failed > len(delays))
    if alone is not None:
        assert both == max(alone, asked or 0.0)
