"""Pages that follow along: server-sent events that say that something changed; the browser then fetches what it shows."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from marzhook.dashboard.visit import HEADERS, begin
from marzhook.store.database import Database
from marzhook.store.sharing import ChangeWatch

if TYPE_CHECKING:
    from marzhook.dashboard.site import Site

log = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks at whether anything changed while one page is open; while more are, so many times as long. One
look serves all of them, so however many are open, about one page a second is fetched anew."""
PING: Final = 30
"""Seconds between two words on a stream on which nothing else is said: what stands in between keeps it open, and the page,
which hears none for three times as long (live.js), opens another one."""
RECHECKED: Final = 60.0
"""Seconds after which a stream asks again whether its reader is still signed in."""


class Pulse:
    """Beats when something was committed. Costs nothing while nobody listens, and a look at a number while some do."""

    def __init__(self, database: Database, *, also: Callable[[], object]) -> None:
        """`also`: what changes with what is shown and not in the database."""
        self._database = database
        self._also = also
        self._also_seen: object = None
        self._watch: ChangeWatch | None = None
        self._lock = Lock()
        """Of the three: pages are made on many threads."""
        self._name = secrets.token_hex(4)
        """Another process counts for itself."""
        self._version = 0
        """Grows with each change that was noticed."""
        self._told = 0
        """The version that listeners have been told of."""
        self._failing = False
        """Whether the last look of the stream's failed, as the log was told."""
        self._listeners = 0
        self._closed = False
        self._beat = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the listeners are."""
        self._looker: asyncio.Task[None] | None = None
        self._looking = asyncio.Event()

    def close(self) -> None:
        """End every stream, also while a look hangs. From any thread."""
        self._closed = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended, and with it the streams
                self._loop.call_soon_threadsafe(self._end)
        # A look at a database that is away takes its time, and such a watch has nothing to close.
        if self._lock.acquire(timeout=EVERY):
            if self._watch is not None:
                self._watch.close()
            self._watch = None
            self._lock.release()

    @property
    def state(self) -> str:
        """What a page carries that is made from now on: what changes after this look, its stream tells. Empty where the look
        fails: then it tells at once. From any thread."""
        with suppress(Exception):
            return f"{self._name}.{self._seen()}"
        return ""

    def _seen(self) -> int:
        """The version after a look; a thread's work, for a database that is away takes its time."""
        with self._lock:
            also = self._also()
            if self._closed:
                return self._version
            try:
                if self._watch is None:
                    self._watch = self._database.commits()
                    self._version += 1  # one that failed may have missed something
                elif self._watch.changed() or also != self._also_seen:
                    self._version += 1
            except Exception:
                if self._watch is not None:
                    self._watch.close()
                self._watch = None
                raise
            self._also_seen = also
            return self._version

    def _version_of(self, state: str) -> int:
        """-1: not one of this process."""
        name, _, version = state.partition(".")
        return int(version) if name == self._name and version.isascii() and version.isdigit() else -1

    @property
    def pause(self) -> float:
        """Seconds between two looks, for as many pages as are open now."""
        return EVERY * max(1, self._listeners)

    def worth(self, seconds: float) -> float:
        """Seconds after which an open page asks again that has reason to in so many, or in none (0): not before it would have
        been told, or each of many would ask as often as one does."""
        return max(seconds, self.pause + 2 * EVERY) if seconds else 0.0

    async def beats(
        self, still_allowed: Callable[[], Awaitable[bool]], since: str = ""
    ) -> AsyncIterator[dict[str, str]]:
        """One event for each `pause` in which something changed, until the service stops or the reader is signed out; the
        first at once if anything may have changed `since` the page was made, whose state that is."""
        self._listeners += 1
        self._loop = asyncio.get_running_loop()
        if self._looker is None or self._looker.done():
            self._looking = asyncio.Event()
            self._looker = asyncio.create_task(self._look(self._looking))
        try:
            # Before the first beat: what is committed from then on is noticed.
            await self._looking.wait()
            seen, time = self._version_of(since), self._loop.time
            checked = time()
            while not self._closed:
                beat = self._beat
                if seen >= self._told:
                    # Without a look of its own: those of twenty took a third of a percent of a core.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(beat.wait(), checked + RECHECKED - time())
                if seen < self._told:
                    seen = self._told
                    yield {"event": "change", "data": ""}
                if time() >= checked + RECHECKED:
                    if not await still_allowed():
                        return
                    checked = time()
        finally:
            self._listeners -= 1

    async def _look(self, looking: asyncio.Event) -> None:
        """While there are listeners: look, and wake those who wait. What fails is begun anew."""
        time = asyncio.get_running_loop().time
        try:
            self._told = await self._try_to_see()
            looking.set()
            looked = time()
            while self._listeners and not self._closed:
                # No longer, for pages are closed meanwhile, and the service may stop.
                await asyncio.sleep(EVERY)
                if time() < looked + self.pause - EVERY / 2:
                    continue
                before, self._told = self._told, await self._try_to_see()
                looked = time()
                if self._told != before:
                    self._wake()
        finally:
            looking.set()

    def _end(self) -> None:
        self._looking.set()
        self._wake()

    def _wake(self) -> None:
        beat, self._beat = self._beat, asyncio.Event()
        beat.set()

    async def _try_to_see(self) -> int:
        try:
            # In a thread: the API's other calls have no time to lose.
            told = await run_in_threadpool(self._seen)
        except Exception as error:
            if not self._failing:
                log.warning("open pages cannot follow along just now: %s", error)
            self._failing = True
            return self._told
        if self._failing:
            log.info("open pages follow along again")
        self._failing = False
        return told


def stream(site: Site) -> Callable[[Request], Awaitable[Response]]:
    """The route of the stream. For sudo admins: beats tell when the service works, and nothing else."""

    async def answered(request: Request) -> Response:
        async def allowed() -> bool:
            visit = await run_in_threadpool(begin, site, request, FormData())
            return visit.admin is not None and visit.admin.is_sudo

        if not await allowed():
            # 204 tells the browser not to ask again.
            return Response(status_code=204)
        return EventSourceResponse(
            site.pulse.beats(allowed, request.query_params.get("since", "")),
            headers={**HEADERS, "X-Accel-Buffering": "no"},
            ping=PING,
            ping_message_factory=lambda: ServerSentEvent(event="ping", data=""),
            send_timeout=30,
        )

    return answered
