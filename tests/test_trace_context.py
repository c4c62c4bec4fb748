"""W3C Trace Context: what is taken for a trace, what is kept of it, and what is sent on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook import trace_context
from marzhook.trace_context import MAX_STATE, kept, lines, sampled, span_id

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


def test_a_trace_is_kept_and_passed_on_untouched() -> None:
    """Who records no span of his own gives the receiver the parent that he was given, with the tracestate."""
    assert kept([GIVEN]) == GIVEN
    assert lines(kept([GIVEN])) == (f"traceparent: {GIVEN}",)
    text = kept([GIVEN], ["congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7"])
    assert lines(text) == (f"traceparent: {GIVEN}", "tracestate: congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")


def test_a_span_of_our_own_becomes_the_parent() -> None:
    """The trace's id, its flags and the tracestate stay."""
    text = kept([GIVEN], ["congo=t61rcWkgMzE"])
    assert lines(text, "b7ad6b7169203331") == (
        f"traceparent: 00-{TRACE}-b7ad6b7169203331-01",
        "tracestate: congo=t61rcWkgMzE",
    )


@pytest.mark.parametrize(
    "header",
    [
        "", "00", f"00-{TRACE}-{PARENT}", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", f"{GIVEN}-extra", f"{GIVEN}x", f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}x-{PARENT}-01", f"00_{TRACE}_{PARENT}_01", f"00-{TRACE}-{PARENT}-0١", f"cc-{TRACE}-{PARENT}-01.x",
    ],
)  # fmt: skip
def test_what_is_malformed_names_no_trace(header: str) -> None:
    """The specification has it that a new trace begins then."""
    assert kept([header], ["congo=1"]) == ""


def test_two_parents_are_none() -> None:
    """Which of the two is meant nobody knows."""
    assert kept([GIVEN, GIVEN]) == ""
    assert kept([]) == ""


def test_of_a_later_version_what_this_one_knows_is_kept() -> None:
    """Its further fields and flags mean something that is not known here."""
    assert kept([f"cc-{TRACE}-{PARENT}-fd-what-else"]) == f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    "states",
    [
        ["congo"], ["Congo=1"], ["congo=1=2"], ["congo=1,congo=2"], ["congo="], ["congo=\x01"], ["congo=é"],
        [",".join(f"k{n}=1" for n in range(33))], ["=1"], [f"{'k' * 257}=1"], [f"k={'v' * 257}"],
    ],
)  # fmt: skip
def test_a_malformed_tracestate_is_dropped_alone(states: list[str]) -> None:
    """It must not cost the trace."""
    assert kept([GIVEN], states) == GIVEN


def test_a_long_tracestate_loses_large_entries_first_and_then_the_last_ones() -> None:
    """As the specification has it, in whole entries."""
    small = [f"k{n}={'v' * 60}" for n in range(9)]
    state = kept([GIVEN], [",".join([small[0], f"large={'x' * 200}", *small[1:]])]).partition(" ")[2]
    assert len(state) <= MAX_STATE
    assert state.split(",") == small[:8]


@given(st.text(), st.lists(st.text(), max_size=3))
def test_no_header_can_smuggle_another(parent: str, states: list[str]) -> None:
    """Whatever a caller sends, what goes on is one line a header, in printable ASCII."""
    for text in (kept([parent], states), kept([GIVEN], states)):
        if text:
            assert all(line.isascii() and line.isprintable() for line in lines(text))


@given(st.integers(1, 2**40), st.integers(1, 2**40), st.integers(1, 50))
def test_each_try_has_a_span_of_its_own(endpoint_id: int, event_id: int, number: int) -> None:
    """Reckoned again it is the same; another try, event or endpoint has another."""
    one = span_id(GIVEN, endpoint_id, event_id, number)
    assert one == span_id(f"00-{TRACE}-{'1' * 16}-00", endpoint_id, event_id, number)
    others = {
        span_id(GIVEN, endpoint_id, event_id, number + 1),
        span_id(GIVEN, endpoint_id, event_id + 1, number),
        span_id(GIVEN, endpoint_id + 1, event_id, number),
    }
    assert len(others | {one}) == 4
    assert kept([f"00-{TRACE}-{one}-01"])


def test_the_flag_says_whether_it_is_recorded() -> None:
    assert sampled(GIVEN)
    assert not sampled(f"00-{TRACE}-{PARENT}-02 congo=1")


def test_nothing_belongs_to_a_trace_by_itself() -> None:
    assert trace_context.current.get() == ""
