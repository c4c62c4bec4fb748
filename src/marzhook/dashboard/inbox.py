"""The built-in inbox: a receiver that shows what arrives, so that a first delivery is seen without a server of one's own."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from marzhook.clock import Clock
from marzhook.dashboard.preview import MASKED, SECRET_HEADERS
from marzhook.dashboard.visit import Pages, Visit
from marzhook.errors import ConflictError
from marzhook.runtime import environment_endpoints
from marzhook.signing import same
from marzhook.store import endpoints, inbox
from marzhook.store.database import Transaction

if TYPE_CHECKING:
    from marzhook.dashboard.site import Site

pages = Pages()

KEPT: Final = 50
"""Requests that are kept, in memory: it is for looking at, not for keeping."""
MAX_BODY: Final = 16 * 1024
SHOWN: Final = ("webhook-", "x-webhook-", "content-type", "user-agent")
"""Headers that are kept begin with one of these."""
ANSWERS: Final = {200: "OK", 400: "Bad Request", 500: "Internal Server Error"}
"""What it can be told to answer, so that one sees what then happens."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request: what is kept of its body, and how many bytes that leaves out; its first event's action and user ("" where
    it names none), and how many events follow in it."""

    number: int
    at: datetime
    headers: tuple[tuple[str, str], ...]
    body: str
    left_out: int
    action: str
    username: str
    further: int
    status: int


def _events(body: bytes) -> list[Any]:
    """What a body in any of our formats holds; nothing where it is something else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else [value]


def _named(event: Any) -> tuple[str, str]:
    """Its action and username."""
    if isinstance(event, dict) and "type" in event and "data" in event:  # Standard Webhooks
        event = event["data"]
    found = [event.get(name) if isinstance(event, dict) else None for name in ("action", "username")]
    action, username = (value if isinstance(value, str) else "" for value in found)
    return action, username


class Inbox:
    """What has arrived since the start, the newest first. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._numbers = count(1)
        self._received: deque[Received] = deque(maxlen=KEPT)
        self.status = 200
        self.count = 0

    def take(self, headers: tuple[tuple[str, str], ...], body: bytes) -> Received:
        text, left_out = body[:MAX_BODY].decode("utf-8", "replace"), max(0, len(body) - MAX_BODY)
        events = _events(body)
        action, username = _named(events[0]) if events else ("", "")
        further = max(0, len(events) - 1)
        with self._lock:
            number, at = next(self._numbers), self._clock.now()
            got = Received(number, at, headers, text, left_out, action, username, further, self.status)
            self._received.appendleft(got)
            self.count = got.number
        return got

    def all(self) -> list[Received]:
        with self._lock:
            return [*self._received]


def receiver(site: Site) -> Callable[[Request], Awaitable[Response]]:
    """The route that takes what is sent to the inbox. Its token is all that is asked for, as at any receiver."""

    def token() -> str:
        with site.services.database.read() as conn:
            return inbox.token(site.services.database, conn)

    async def received(request: Request) -> Response:
        if not same(await run_in_threadpool(token), request.path_params["token"]):
            raise HTTPException(404)
        body = await request.body()
        shown = tuple(
            (name, MASKED if name in SECRET_HEADERS else value)
            for name, value in request.headers.items()
            if name.startswith(SHOWN)
        )
        got = await run_in_threadpool(site.inbox.take, shown, body)
        return PlainTextResponse(ANSWERS[got.status], got.status)

    return received


@pages.get("/inbox")
def show(visit: Visit) -> Response:
    database = visit.services.database
    with database.read() as conn:
        address = inbox.address(database, conn)
        endpoint = next((one for one in endpoints.all_endpoints(conn) if one.url == address), None)
    return visit.page(
        "inbox.html",
        endpoint=endpoint,
        received=visit.site.inbox.all(),
        answers=ANSWERS,
        status_now=visit.site.inbox.status,
    )


@pages.post("/inbox")
def use(visit: Visit) -> Response:
    """Make it an endpoint."""
    services = visit.services
    # The address under which this very request arrived here: the port may be any free one.
    host, port = visit.request.scope["server"]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def use_it(tx: Transaction) -> None:
        if inbox.address(services.database, tx.conn):
            raise ConflictError("the inbox is an endpoint already", code="inbox_in_use")
        inbox.remember(services.database, tx, base)
        [wanted] = [
            one
            for one in environment_endpoints(services.settings, inbox_url=inbox.address(services.database, tx.conn))
            if one.url == inbox.address(services.database, tx.conn)
        ]
        endpoints.create(
            tx, now=services.clock.now(), kind=wanted.kind, url=wanted.url, source="environment", **wanted.values
        )
        tx.after_commit(services.outbox.wake)

    services.database.transact(use_it)
    return visit.to("/inbox")


@pages.post("/inbox/answer")
def answer(visit: Visit) -> Response:
    """What it answers from now on."""
    status = visit.given("status")
    if status in map(str, ANSWERS):
        visit.site.inbox.status = int(status)
    return visit.to("/inbox")
