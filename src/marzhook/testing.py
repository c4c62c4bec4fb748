"""For tests, ours and other people's: a clock that obeys, waiting for signals, kill points, and requests as Marzhook
sends them, for people to test their receivers with. It needs no more than the standard library.

`python -m marzhook.testing ARGS…` is `marzhook ARGS…` with the kill point armed that the environment names:
`MARZHOOK_KILL_AT=settle.before_commit:3` dies by SIGKILL when that point is passed for the third time.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from marzhook import signals, signing


class FakeClock:
    """Stands still until it is told to move. `now` and `monotonic` move together."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock: durations do not change with it."""
        self._now += timedelta(seconds=seconds)


class Counter:
    """Counts how often a point was passed, and lets a test wait for it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def __call__(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    @property
    def count(self) -> int:
        return self._count

    def wait(self, count: int = 1, *, timeout: float = 20.0) -> None:
        """Until the point has been passed `count` times in all. Raises TimeoutError."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._count >= count, timeout):
                raise TimeoutError(f"passed {self._count} times within {timeout} s, not {count}")


@contextmanager
def counting(point: str) -> Iterator[Counter]:
    """A Counter of the signal `point` while the block runs."""
    counter = Counter()
    with signals.listening(point, counter):
        yield counter


def eventually(condition: Callable[[], object], *, timeout: float = 20.0, what: str = "the condition") -> None:
    """Poll until the condition is true. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout} s")
        time.sleep(0.005)


@contextmanager
def kill_point(name: str, nth: int) -> Iterator[None]:
    """Die by SIGKILL when `name` is passed for the nth time."""
    left = [nth]

    def passed() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with signals.listening(name, passed):
        yield


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A POST as Marzhook sends it: `client.post("/webhook", data=request.body, headers=request.headers)`."""

    headers: dict[str, str] = field(repr=False)
    body: bytes


_event_ids = itertools.count(1)


def webhook_request(
    *events: Mapping[str, Any],
    secret: str | Iterable[str] = (),
    format: str = "event",
    hmac: bool = False,
    tries: int = 0,
    first_id: int | None = None,
    now: datetime | None = None,
) -> WebhookRequest:
    """The request that Marzhook makes of these events, as `POST /api/v1/events` takes them: `{"action", "username", …}`.

    `secret`: what the receiver has: a WEBHOOK_SECRET, sent as it is or as `hmac`; `whsec_…`; and `whsk_…`, of which the
    receiver has the public part. `format`: event, list or standard; only a list may hold several. `tries`: how often they
    failed before. `first_id`: the events' ids are this and the following, and decide `webhook-id` (default: fresh ones).
    `now`: when it is sent, and, unless an event says `enqueued_at`, when it happened.
    """
    from marzhook.delivery import Delivery
    from marzhook.destinations.webhook import Webhook
    from marzhook.endpoint import Endpoint
    from marzhook.event import Event, detail_json

    if not events or (len(events) > 1 and format != "list"):
        raise ValueError(f"a request in the format {format} carries one event; only a list carries several")
    every = (secret,) if isinstance(secret, str) else tuple(secret)
    signing_secrets = [one for one in every if one.startswith(signing.PREFIX)] or [signing.new_secret()]
    plain = [one for one in every if not one.startswith((signing.PREFIX, signing.PRIVATE_PREFIX))]
    sent_at = now or datetime.now(UTC)
    endpoint = Endpoint(
        1, "testing", "webhook", "http://127.0.0.1/", format=format, detail="full", secret=plain[0] if plain else None,
        signing_secret=signing_secrets[0], previous_signing_secret=signing_secrets[1] if signing_secrets[1:] else None,
        previous_expires_at=sent_at + timedelta(days=1),
    )  # fmt: skip
    webhook = Webhook(endpoint, instance="testing")
    ids = [next(_event_ids) if first_id is None else first_id + index for index in range(len(events))]
    items = []
    for event_id, event in zip(ids, events, strict=True):
        detail = dict(event)
        action, username = detail.pop("action"), detail.pop("username")
        enqueued_at = detail.pop("enqueued_at", sent_at.timestamp())
        known = Event(event_id, action, username, enqueued_at, detail_json(detail))
        items.append(webhook.item(Delivery(1, known, tries), sent_at))
    request = webhook.request(items, ids, sent_at, mode="hmac" if hmac else "plain")
    headers = dict(request.headers)
    for key in (one for one in every if one.startswith(signing.PRIVATE_PREFIX)):
        at = int(headers["webhook-timestamp"])
        signature = signing.sign_v1a(signing.private_key_of(key), headers["webhook-id"], at, request.body)
        headers["webhook-signature"] += f" {signature}"
    return WebhookRequest(headers, request.body)


def main() -> None:
    from marzhook.cli.main import main as marzhook

    with ExitStack() as stack:
        armed = os.environ.pop("MARZHOOK_KILL_AT", "")
        if armed:
            name, _, nth = armed.partition(":")
            stack.enter_context(kill_point(name, int(nth or 1)))
        sys.argv[0] = "marzhook"
        marzhook()


if __name__ == "__main__":
    main()
