"""Deliveries: one event owed to one endpoint, and every decision about its life.

                  +-- failed, tries left (settle)
                  v       |
    publish --> pending --+-- accepted (settle) --> delivered --+
                  ^       +-- no tries left (settle) --> dead --+
                  |       +-- cancel --> cancelled -------------+
                  +------------------ replay -------------------+

`pending` is a row of the table `pending`; the three terminal states are rows of `settled`. That a delivery is being sent,
or waits behind an earlier one of its user, only its dispatcher knows: it is not stored, so a crash leaves nothing to repair.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from marzhook.event import Event
from marzhook.request import Response
from marzhook.retry import RetryPolicy

PENDING: Final = "pending"
DELIVERED: Final = "delivered"
DEAD: Final = "dead"
CANCELLED: Final = "cancelled"
STATES: Final = (PENDING, DELIVERED, DEAD, CANCELLED)
SETTLED_STATES: Final = (DELIVERED, DEAD, CANCELLED)

STANDARD: Final = "standard"
REJECTED: Final = "rejected"
OUTAGE: Final = "outage"
SPLIT: Final = "split"
SCHEDULES: Final = (STANDARD, REJECTED, OUTAGE, SPLIT)
"""How a failed delivery goes on: the long schedule; the short one of an event that the receiver refuses while it accepts
others; with the endpoint's probes (an outage counts no tries); at once, in a smaller batch (which counts none either)."""
COUNTED: Final = frozenset({STANDARD, REJECTED})
"""Those of them that count as tries."""

ERRORS: Final = (
    "dns",
    "connect",
    "timeout",
    "tls",
    "refused_address",
    "protocol",
    "reset",
    "cancelled",
    "render",
    "other",
)
"""Why a try got no answer: the name not found, no connection, too slow, a bad certificate, an address that the guard refuses,
not HTTP, cut off, stopped by us, the body could not be made, anything else."""


class Delivery(NamedTuple):
    """What is owed: the event, and how often it was tried."""

    endpoint_id: int
    event: Event
    tries: int = 0
    """Failed tries since it was published or replayed; goes to the wire."""
    attempts: int = 0
    """All tries ever made, also before a replay; numbers the attempts."""
    due_at: datetime | None = None
    """Not to be tried before; None: at once."""
    hastened_at: float | None = None
    """When somebody asked for a try at once (Unix seconds), which was not made yet."""


class Verdict(enum.Enum):
    """What a destination makes of a response."""

    ACCEPTED = "accepted"
    FAILED = "failed"
    REJECTED = "rejected"
    """The receiver refuses this event (400, 409, 413, 415, 422 …) and may well accept others."""
    GONE = "gone"
    """The receiver says that it wants no more (410): the endpoint is disabled."""


class Outcome(NamedTuple):
    """A destination's judgement of one response."""

    verdict: Verdict
    retry_after: float | None = None
    """Seconds for which the receiver asks to be left alone by this delivery."""
    pause: float | None = None
    """Seconds for which the whole endpoint rests (a rate limit), also after a success."""


ACCEPTED: Final = Outcome(Verdict.ACCEPTED)
"""What most answers come to."""


class Phases(NamedTuple):
    """Where a try's time went, in seconds: to find the name, to connect, to agree on TLS, and to wait for the answer."""

    dns: float
    connect: float
    tls: float
    wait: float


class Attempt(NamedTuple):
    """One try, as it is kept."""

    number: int
    at: datetime
    duration: float
    status: int | None
    error: str | None
    message: str
    response: str
    schedule: str | None = None
    """What decided when a failed delivery is tried again: one of SCHEDULES; None after a success."""
    timing: str | None = None
    """Microseconds that DNS, connecting and TLS took, "120 840 2310"; "": the connection stood already; None: not known."""
    head: str | None = None
    """Headers of a failure's answer, one a line, without what they hold in confidence."""

    @property
    def phases(self) -> Phases | None:
        """None: not known. Together they are the duration."""
        if self.timing is None:
            return None
        dns, connect, tls = (int(part) / 1e6 for part in self.timing.split() or (0, 0, 0))
        return Phases(dns, connect, tls, max(0.0, self.duration - dns - connect - tls))


class Settlement(NamedTuple):
    """One delivery after one try: what the outbox writes."""

    delivery: Delivery
    attempt: Attempt
    state: str
    """pending (tried again at `due_at`), delivered or dead."""
    tries: int
    due_at: datetime | None = None


def settle(
    deliveries: Sequence[Delivery],
    response: Response,
    outcome: Outcome,
    policy: RetryPolicy | None,
    *,
    random: float,
    schedule: str = STANDARD,
) -> list[Settlement]:
    """Decide what becomes of the deliveries that went out in one request.

    `policy` None: a failure is not counted as a try, and the delivery is due again at once (when its endpoint may send).
    """
    accepted = outcome.verdict is Verdict.ACCEPTED
    at, duration, status, error, text = (
        response.started_at, response.duration, response.status, response.error, _kept(response, accepted),
    )  # fmt: skip
    timing = response.timing
    # What is no text could never be written, and its delivery never be settled.
    message = response.message and response.message.encode("utf-8", "replace").decode().replace("\0", "�")
    if accepted:
        return [
            Settlement(
                d, Attempt(d.attempts + 1, at, duration, status, error, message, text, None, timing), DELIVERED, d.tries
            )
            for d in deliveries
        ]
    ended, head = at + timedelta(seconds=duration), _head(response)
    settlements = []
    for delivery in deliveries:
        attempt = Attempt(delivery.attempts + 1, at, duration, status, error, message, text, schedule, timing, head)
        if policy is None:
            settlements.append(Settlement(delivery, attempt, PENDING, delivery.tries))
            continue
        failed = delivery.tries + 1
        wait = policy.delay(failed, random=random, retry_after=outcome.retry_after)
        if wait is None:
            settlements.append(Settlement(delivery, attempt, DEAD, failed))
        else:
            settlements.append(Settlement(delivery, attempt, PENDING, failed, ended + timedelta(seconds=wait)))
    return settlements


KEPT_OF_SUCCESS = 1024
"""Bytes kept of the body of a success; a failure keeps all of what was read, because somebody will want to know why."""


def _kept(response: Response, accepted: bool) -> str:
    body = response.body[:KEPT_OF_SUCCESS] if accepted else response.body
    # NUL is legal in a body but not in PostgreSQL's text.
    return body.decode("utf-8", "replace").replace("\0", "�")


KEPT_OF_HEAD = 2048
"""Characters kept of the headers of a failure's answer."""
CONFIDENTIAL: Final = frozenset({"set-cookie", "authorization", "x-webhook-secret", "webhook-signature"})
"""Headers whose values are nobody's business, also where a receiver sends ours back."""


def _head(response: Response) -> str | None:
    lines = [f"{name}: {'***' if name in CONFIDENTIAL else value}" for name, value in response.headers.items()]
    return "\n".join(lines)[:KEPT_OF_HEAD].replace("\0", "�") or None
