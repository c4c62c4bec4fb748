"""The receiver: proves, reads, handles once, answers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping

from marzhook.receiver.body import Body, check_head, read
from marzhook.receiver.dedupe import Dedupe, Memory, Session
from marzhook.receiver.event import Fields, ReceivedEvent, event_of
from marzhook.receiver.refusal import EventRefused, RequestRefused
from marzhook.receiver.secrets import ID, TOLERANCE, Secrets

TYPE_CHECKING = False  # see `event`
if TYPE_CHECKING:
    from logging import Logger
    from typing import Any, Final, Literal, TypeVar

    H = TypeVar("H", bound="Handler")
    What = Literal["done", "duplicate", "ignored", "failed", "refused", "held"]
    """What became of an event: handled; handled before; nobody asked for this action; a handler raised; it will never be good;
    not handled because an earlier one of its user in the same list was not."""

MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes. Marzhook's lists have 256 KiB; the panel puts everything that waits into one: 10,000 events are 10 MB."""

Handler = Callable[[ReceivedEvent], object]
"""May be `async`; what it returns otherwise does not matter."""
Run = Callable[[Awaitable[object]], object]

GOOD: Final = frozenset({"done", "duplicate", "ignored"})


class Result(Fields):
    """What became of one event, and why."""

    __slots__ = ("reason", "what")

    def __init__(self, what: What, reason: str = "") -> None:
        self.what: What = what
        self.reason = reason


class Answer(Fields):
    """The HTTP answer: to be sent as it is."""

    __slots__ = ("body", "headers", "results", "status")

    def __init__(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, results: tuple[Result, ...] = ()
    ) -> None:
        self.status = status
        self.body = body
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.results = results
        """One for each event; none where the whole request was refused."""


class Receiver:
    """Takes requests and gives their events to handlers. Safe to call from any thread.

    `secret`: see `Secrets`. `dedupe`: where handled events are remembered (default: the last 100,000, in memory; see
    `marzhook.receiver.database`). `tolerance`: seconds that a signature may be old. `max_body`: bytes. `clock`: Unix seconds.
    """

    def __init__(
        self,
        secret: str | Iterable[str],
        *,
        dedupe: Dedupe | None = None,
        tolerance: float = TOLERANCE,
        max_body: int = MAX_BODY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = Secrets(secret, tolerance=tolerance)
        self._dedupe = Memory() if dedupe is None else dedupe
        self._handlers: list[tuple[frozenset[str], Handler]] = []
        self._clock = clock
        self.max_body = max_body

    def on(self, *actions: str) -> Callable[[H], H]:
        """Call the decorated function for these actions (`"*"`: all); it may be `async`. Several are called in their order.

        One that raises leaves the event to come again; after `EventRefused`, only a few times more.
        """
        if not actions or not all(isinstance(action, str) for action in actions):
            raise TypeError('say for which actions: @receiver.on("user_created"), or "*" for all')

        def register(handler: H) -> H:
            self._handlers.append((frozenset(actions), handler))
            return handler

        return register

    def receive(
        self, headers: Mapping[str, str], body: bytes, *, method: str = "POST", run: Run | None = None
    ) -> Answer:
        """Take one request, with its body exactly as it came. Never raises an Exception: the answer says what is wrong.

        `run` drives what an `async` handler returned to its end (default: `asyncio.run`); adapters use the server's loop.
        """
        named = {name.lower(): value for name, value in headers.items()}
        try:
            if method != "POST":
                raise RequestRefused(405, "not_post", "webhooks are POST requests")
            check_head(named, body, max_body=self.max_body)
            content = read(named.get(ID), body, self._secrets.verify(named, body, self._clock()))
        except RequestRefused as refused:
            _log().warning("a request was refused: %s", refused.code)
            return _refusal(refused)
        try:
            with self._dedupe.session() as session:
                work = _Work(self._handlers, session, content, run or _run)
                results = tuple(work.result(item, ids) for item, ids in content.items)
        except Exception:
            _log().exception("the memory of handled events cannot be reached")
            results = (Result("failed", "the receiver's memory of handled events cannot be reached"),) * len(
                content.items
            )
        return _answer(results)


class _Work:
    """The events of one request, one after the other."""

    def __init__(self, handlers: list[tuple[frozenset[str], Handler]], session: Session, body: Body, run: Run) -> None:
        self._handlers = handlers
        self._session = session
        self._body = body
        self._run = run
        self._held: set[str] = set()
        """Users of whom an event was not handled: the later ones must not overtake it."""

    def result(self, item: object, ids: tuple[str, ...]) -> Result:
        username, event_id = None, ids[0] if ids else None
        try:
            event = event_of(
                item, format=self._body.format, id=event_id, message_id=self._body.message_id,
                connection=self._session.connection,
            )  # fmt: skip
            username = event.username
            if username in self._held:
                return Result("held")
            return Result(self._handle(event, ids))
        except EventRefused as refused:
            result = Result("refused", str(refused))
            _log().warning("an event was refused: %s", event_id)
        except Exception as error:
            # The text of an error can hold anything; the sender keeps what it is answered.
            result = Result("failed", type(error).__name__)
            _log().exception("an event could not be handled: %s", event_id)
        if username is not None:
            self._held.add(username)
        return result

    def _handle(self, event: ReceivedEvent, ids: tuple[str, ...]) -> What:
        wanted = [handler for actions, handler in self._handlers if event.action in actions or "*" in actions]
        if not wanted:
            return "ignored"
        with self._session.once(ids) as first:
            if not first:
                return "duplicate"
            for handler in wanted:
                outcome = handler(event)
                if isinstance(outcome, Awaitable):
                    self._run(outcome)
        return "done"


def _log() -> Logger:
    import logging  # brings what reads and formats tracebacks: half as much again as all the rest

    return logging.getLogger(__name__)


def _run(outcome: Awaitable[object]) -> None:
    import asyncio  # takes longer to import than all the rest

    async def awaited() -> None:
        await outcome

    asyncio.run(awaited())


def _answer(results: tuple[Result, ...]) -> Answer:
    """200: all is well. 500: nothing went well, all is to come again as it is. 422: it depends on the event; Marzhook then
    takes a list apart until what is refused is alone, and what was done meanwhile is a duplicate."""
    counts = Counter(result.what for result in results)
    if counts.keys() <= GOOD:
        status = 200
    elif counts.keys() <= {"failed", "held"}:
        status = 500
    else:
        status = 422
    items = [
        {"index": index, "result": result.what} | ({"reason": result.reason} if result.reason else {})
        for index, result in enumerate(results)
        if result.what not in GOOD
    ]
    content: dict[str, Any] = {"results": counts}
    if items:
        content["items"] = items
    return Answer(status, json.dumps(content).encode(), results=results)


def _refusal(refused: RequestRefused) -> Answer:
    body = json.dumps({"code": refused.code, "detail": str(refused)}).encode()
    return Answer(refused.status, body, {"Allow": "POST"} if refused.status == 405 else None)
