"""What every destination does: render an event, judge a response."""

from __future__ import annotations

import email.utils
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar

from marzhook.delivery import ACCEPTED, Delivery, Outcome, Verdict
from marzhook.endpoint import Endpoint, check_url
from marzhook.errors import InvalidError, RenderError
from marzhook.event import JSON
from marzhook.request import BAD_DATA, Alert, Command, Job, Request, Response, Rows

MAX_RETRY_AFTER = 86400.0
"""Seconds; a receiver that asks for more is asked again after a day."""


class Destination(ABC):
    """One endpoint, spoken to in the way of its kind."""

    max_items: ClassVar[int] = 1
    """Events a request may carry."""
    max_bytes: ClassVar[int] = 1 << 62
    """Bytes that the items of a request may have together (one item alone may have more)."""
    concurrency: ClassVar[int] = 1000
    """Requests in flight at the most, whatever the endpoint allows."""
    longest: ClassVar[float] = 0.0
    """Seconds that one request may take beyond a request's usual time, and nothing be wrong."""
    known_options: ClassVar[tuple[str, ...]] = ()
    problem: str | None = None
    """Why nothing can be sent to the endpoint as it is stored, in words."""
    rate_limit: float | None = None
    """Requests a second at the most, whatever the endpoint allows; None: no limit."""

    def __init__(
        self, endpoint: Endpoint, *, instance: str, connect_timeout: float = 5.0, timeout: float = 15.0
    ) -> None:
        self.endpoint = endpoint
        self._url, self._guarded = endpoint.url, endpoint.guarded
        self._instance = instance
        self._connect_timeout = connect_timeout
        self._timeout = timeout

    @classmethod
    def checked_url(cls, url: object) -> str:
        """The address as it is kept. Raises InvalidError with what is expected."""
        return check_url(url)

    @classmethod
    def checked_options(
        cls, options: Mapping[str, JSON], before: Mapping[str, JSON] = MappingProxyType({})
    ) -> dict[str, JSON]:
        """The options of this kind as they are kept. Raises InvalidError for the first wrong one.

        `before`: those that the endpoint has. What a newer version wrote there, and this one does not know, may stay as it is.
        """
        known, kept = dict(options), {}
        for name in options.keys() - set(cls.known_options):
            kept[name] = known.pop(name)
            if name not in before or before[name] != kept[name]:
                there = f"there are {', '.join(cls.known_options)}" if cls.known_options else "this kind has none"
                raise InvalidError(f"there is no option {ascii(name)[:60]}; {there}", code="invalid_options")
        return cls._checked(known) | kept

    @classmethod
    def _checked(cls, options: Mapping[str, JSON]) -> dict[str, JSON]:
        """The same of `known_options`, of which each may be missing."""
        return {}

    @property
    def unknown_options(self) -> Sequence[str]:
        """Those that a newer version wrote. Nothing is done about them, and nothing to them."""
        return sorted(self.endpoint.options.keys() - set(self.known_options))

    @abstractmethod
    def item(self, delivery: Delivery, now: datetime) -> str:
        """One event as JSON text."""

    def readable(self, item: str) -> str:
        """What people read where the item arrives; empty: it is for programs."""
        return ""

    def together(self, first: str, item: str) -> bool:
        """Whether `item` may go with the request that `first` begins."""
        return True

    @abstractmethod
    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Request | Job:
        """The request that carries these items (of the events `ids`)."""

    def mode(self, items: Sequence[str]) -> str:
        """How the first request of a try goes out, where there are several ways: a word between this and the next three."""
        return "plain"

    def other_mode(self, mode: str, response: Response) -> str | None:
        """The mode in which the same items are to go out once more, in the same try; None: no."""
        return None

    def learned(self, items: Sequence[str], mode: str) -> Mapping[str, Any]:
        """What the endpoint's columns should say now that these items were accepted in this mode; empty: as they are."""
        return {}

    @abstractmethod
    def judge(self, response: Response, now: datetime) -> Outcome:
        """What the receiver's answer means."""

    def made(self, delivery: Delivery, now: datetime) -> tuple[str, Request | Job]:
        """What one event becomes, outside a queue, and its request. Raises RenderError, whatever goes wrong."""
        try:
            items = [self.item(delivery, now)]
            return items[0], self.request(items, [delivery.event.id], now, mode=self.mode(items))
        except RenderError:
            raise
        except Exception as error:
            raise RenderError(f"{type(error).__name__}: {error}"[:300]) from error

    def _job(self, work: Command | Rows | Alert) -> Job:
        return Job(self.endpoint.id, work, self._timeout)

    def _request(self, lines: Sequence[str], body: bytes) -> Request:
        return Request(
            self._url,
            (*lines, "Content-Type: application/json", "User-Agent: Marzhook"),
            body,
            self._connect_timeout,
            self._timeout,
            self._guarded,
        )


def json_body(response: Response) -> dict[str, Any]:
    """The answer's JSON object; empty where it is none."""
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def done(response: Response) -> Outcome:
    """What a job's status means."""
    if response.status == 0:
        return ACCEPTED
    return Outcome(Verdict.REJECTED if response.status == BAD_DATA else Verdict.FAILED)


_ABOUT_THE_SENDER = frozenset({401, 403, 404, 407, 408, 410, 421, 423, 425, 426, 429})
"""4xx that speak of the address, the credentials or the moment; all others speak of the event."""


def failed(response: Response, now: datetime) -> Outcome:
    """A failure like any other: to be tried again, not before the receiver's Retry-After.

    429 and 503 with a Retry-After let the whole endpoint rest; a 4xx that speaks of the event is a rejection.
    """
    status = response.status or 0
    wait = retry_after(response, now)
    if 400 <= status < 500 and status not in _ABOUT_THE_SENDER:
        return Outcome(Verdict.REJECTED, retry_after=wait)
    return Outcome(Verdict.FAILED, retry_after=wait, pause=wait if status in (429, 503) else None)


def retry_after(response: Response, now: datetime) -> float | None:
    """Seconds that the header Retry-After asks for (RFC 9110, 10.2.3: seconds or a date); None: nothing sensible."""
    text = response.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(text) - now).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            # What a header can make the parser raise: not a date, no time zone, a zone or a year beyond all bounds.
            return None
    # `not >=` also catches NaN.
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None
