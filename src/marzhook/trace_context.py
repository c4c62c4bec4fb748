"""W3C Trace Context (https://www.w3.org/TR/trace-context/): the headers that say to which trace a call belongs.

What came in is kept as one text: the `traceparent`, and behind a space the `tracestate`, where there is one. An event keeps
the text of the call that published it, and each of its requests carries it on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from hashlib import blake2b
from typing import Final

current: ContextVar[str] = ContextVar("trace_context", default="")
"""To which trace belongs what is done just now; empty: to none."""

MAX_STATE: Final = 512
"""Characters of a tracestate that are passed on: what the specification asks for (3.3.1.5). Entries beyond are dropped."""
LARGE_ENTRY: Final = 128
"""Characters beyond which an entry is among the first to be dropped."""
MAX_ENTRIES: Final = 32

_PARENT = re.compile(r"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
# A key is lower case; a value is printable, without comma and equals sign, and ends in no blank (3.3.1.3).
_ENTRY = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", re.ASCII
)
_KNOWN_FLAGS: Final = 0x03
"""Sampled, and that the trace's id is random: what versions up to today's give a meaning to."""


def kept(traceparents: Sequence[str], tracestates: Sequence[str] = ()) -> str:
    """The text to be kept, of all headers of these two names; empty: they name no trace.

    A traceparent that is malformed, or not the only one, counts as none; a malformed tracestate is dropped alone (4.3).
    """
    found = _PARENT.fullmatch(traceparents[0].strip(" \t")) if len(traceparents) == 1 else None
    if found is None:
        return ""
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest):
        return ""
    if version != "00":
        # Of a later version only what this one has is understood, and so passed on (3.2.4).
        flags = f"{int(flags, 16) & _KNOWN_FLAGS:02x}"
    state = _state(",".join(tracestates))
    return f"00-{trace_id}-{parent_id}-{flags}" + (state and f" {state}")


def lines(text: str, span_id: str = "") -> tuple[str, ...]:
    """The headers that carry this trace on. `span_id`: of our own span, which is the receiver's parent; empty: we have none,
    and pass on what came, untouched, because a parent that nobody has recorded would tear the trace (3.4)."""
    parent, _, state = text.partition(" ")
    if span_id:
        parent = f"{parent[:36]}{span_id}{parent[52:]}"
    return (f"traceparent: {parent}", f"tracestate: {state}") if state else (f"traceparent: {parent}",)


def span_id(text: str, endpoint_id: int, event_id: int, number: int) -> str:
    """Of a try's span: 16 hexadecimal digits. Reckoned, not drawn: the request bears it long before the span is made, and
    nobody has to remember it until then."""
    told = f"{text[3:35]} {endpoint_id} {event_id} {number}"
    # The probability of all zeros, which mean no span, is that of a collision.
    return blake2b(told.encode(), digest_size=8).hexdigest()


def sampled(text: str) -> bool:
    """Whether who began the trace records it."""
    return int(text[53:55], 16) & 1 == 1


def _state(text: str) -> str:
    entries = [entry.strip(" \t") for entry in text.split(",")]
    entries = [entry for entry in entries if entry]
    keys = [entry.partition("=")[0] for entry in entries]
    if len(entries) > MAX_ENTRIES or len(set(keys)) < len(keys) or not all(map(_ENTRY.fullmatch, entries)):
        return ""
    if sum(map(len, entries)) + len(entries) - 1 > MAX_STATE:
        entries = [entry for entry in entries if len(entry) <= LARGE_ENTRY]
    while sum(map(len, entries)) + len(entries) - 1 > MAX_STATE:
        entries.pop()
    return ",".join(entries)
