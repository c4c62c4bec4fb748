"""One HTTP request to a receiver and what came of it: plain values between destinations and the transport."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

LONGEST_ALERT = 300.0
"""Seconds that one alert may take, however many recipients its URL names."""
MAX_RESPONSE = 16 * 1024
"""Bytes of a response's body that are read and kept."""

BAD_DATA = 65
"""The status with which a job says that the event is at fault (sysexits' EX_DATAERR)."""


class Request(NamedTuple):
    """A POST. Header values hold no control characters (`header` refuses them). Times out after the given seconds."""

    url: str
    lines: tuple[str, ...]
    """The headers as they are sent, `name: value`."""
    body: bytes
    connect_timeout: float = 5.0
    timeout: float = 15.0
    guarded: bool = True
    """Whether only public addresses (and those that the operator allows) may be connected to."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Names and values."""
        return tuple((name, value) for name, _, value in (line.partition(": ") for line in self.lines))

    def __repr__(self) -> str:
        # The address, headers and body can hold secrets.
        return f"Request(guarded={self.guarded})"


class Command(NamedTuple):
    """A program to be run, without a shell: exit status 0 is success, and what it says on stderr its answer."""

    argv: tuple[str, ...]
    stdin: bytes
    environment: Mapping[str, str]
    """All that it has, besides PATH, HOME and the language."""


class Rows(NamedTuple):
    """Events to be written to the tables `users` and `events` of a database, in one transaction."""

    url: str
    """SQLAlchemy's."""
    prefix: str
    """Of the tables' names."""
    rows: tuple[str, ...]
    """JSON objects, see `destinations.sql`."""


class Alert(NamedTuple):
    """A message for people, which Apprise delivers."""

    url: str
    title: str
    text: str


class Job(NamedTuple):
    """Work that is no HTTP request, and is done by a thread. Its Response has the status 0 after a success."""

    endpoint_id: int
    work: Command | Rows | Alert
    timeout: float

    def __repr__(self) -> str:
        # The work can hold secrets.
        return f"Job({type(self.work).__name__})"


class Response(NamedTuple):
    """What came back. Either `status` is known, or `error` says why not (one of `delivery.ERRORS`)."""

    started_at: datetime
    duration: float
    """Seconds from the request's start to the end of its answer."""
    status: int | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    """Names in lower case."""
    body: bytes = b""
    """The head of the body, at most MAX_RESPONSE bytes."""
    error: str | None = None
    message: str = ""
    """The error in words."""
    timing: str | None = None
    """What a new connection took, see `delivery.Attempt.timing`."""
    pause: float | None = None
    """Seconds that the service wants between two requests, where the carrier knows them."""


def header(name: str, value: str) -> str:
    """A header that cannot smuggle another one, and can be sent (Latin-1). Raises ValueError."""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or ord(c) > 255 for c in value):
        raise ValueError(
            f"the value of {name} contains what a header cannot carry: control characters, or beyond Latin-1"
        )
    return f"{name}: {value}"
