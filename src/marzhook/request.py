"""One HTTP request to a receiver and what came of it: plain values between destinations and the transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

MAX_RESPONSE = 16 * 1024
"""Bytes of a response's body that are read and kept."""


@dataclass(frozen=True, slots=True)
class Request:
    """A POST. Header values hold no control characters (`header` refuses them). Times out after the given seconds."""

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    connect_timeout: float = 5.0
    timeout: float = 15.0
    guarded: bool = True
    """Whether only public addresses (and those that the operator allows) may be connected to."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. Either `status` is known, or `error` says why not (one of `delivery.ERRORS`)."""

    started_at: datetime
    duration: float
    """Seconds from the request's start to the end of its answer."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    """The head of the body, at most MAX_RESPONSE bytes."""
    error: str | None = None
    message: str = ""
    """The error in words."""


def header(name: str, value: str) -> tuple[str, str]:
    """A header that cannot smuggle another one, and can be sent (Latin-1). Raises ValueError."""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or ord(c) > 255 for c in value):
        raise ValueError(
            f"the value of {name} contains what a header cannot carry: control characters, or beyond Latin-1"
        )
    return name, value
