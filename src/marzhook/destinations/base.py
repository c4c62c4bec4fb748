"""What every destination does: render an event, judge a response."""

from __future__ import annotations

import email.utils
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from marzhook.delivery import Delivery, Outcome, Verdict
from marzhook.endpoint import Endpoint
from marzhook.request import Request, Response

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

    def __init__(
        self, endpoint: Endpoint, *, instance: str, connect_timeout: float = 5.0, timeout: float = 15.0
    ) -> None:
        self.endpoint = endpoint
        self._url, self._guarded = endpoint.url, endpoint.guarded
        self._instance = instance
        self._connect_timeout = connect_timeout
        self._timeout = timeout

    @abstractmethod
    def item(self, delivery: Delivery, now: datetime) -> str:
        """One event as JSON text."""

    @abstractmethod
    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, secret_mode: str) -> Request:
        """The request that carries these items (of the events `ids`)."""

    @property
    def secret_mode(self) -> str:
        """How the first request of a try carries the secret."""
        return "plain"

    def other_mode(self, secret_mode: str, response: Response) -> str | None:
        """The mode in which the same body is to go out once more, in the same try; None: no."""
        return None

    @abstractmethod
    def judge(self, response: Response, now: datetime) -> Outcome:
        """What the receiver's answer means."""

    def _request(self, lines: Sequence[str], body: bytes) -> Request:
        return Request(
            self._url,
            (*lines, "Content-Type: application/json", "User-Agent: Marzhook"),
            body,
            self._connect_timeout,
            self._timeout,
            self._guarded,
        )


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
