"""Pages that follow along: server-sent events that say that something changed; the browser then fetches what it shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from marzhook.dashboard.visit import HEADERS, begin
from marzhook.store.database import Database

if TYPE_CHECKING:
    from marzhook.dashboard.site import Site

log = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks at whether anything changed, while anybody watches: one look for all of them."""
EACH: Final = 0.5
"""Seconds that are added for each page beyond two: to render a page takes some 10 ms, and however many are open, together
they take about 2 % of the interpreter's time from those who deliver."""
RECHECKED: Final = 60
"""Looks after which a stream asks again whether its reader is still signed in."""


class Pulse:
    """Beats when something was committed. Costs nothing while nobody listens, and a look at a number while some do."""

    def __init__(self, database: Database, *, also: Callable[[], int]) -> None:
        """`also`: a number that changes with what is not in the database."""
        self._database = database
        self._also = also
        self._listeners = 0
        self._closed = False
        self._version = 0
        """Grows with each change that was noticed."""
        self._beat = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None
        self._looking = asyncio.Event()

    def close(self) -> None:
        """End every stream, within EVERY seconds. From any thread."""
        self._closed = True

    @property
    def pause(self) -> float:
        """Seconds between two looks, for as many pages as are open now."""
        return max(EVERY, EACH * self._listeners)

    async def beats(self, still_allowed: Callable[[], Awaitable[bool]]) -> AsyncIterator[dict[str, str]]:
        """One event for each `pause` in which something changed, until the service stops or the reader is signed out."""
        self._listeners += 1
        if self._looker is None or self._looker.done():
            self._looking = asyncio.Event()
            self._looker = asyncio.create_task(self._look(self._looking))
        try:
            # Before the first beat: what is committed from then on is noticed.
            await self._looking.wait()
            seen, looks = self._version, 0
            # At once: what changed between the page and its stream would be missed otherwise.
            yield {"event": "change", "data": ""}
            while not self._closed:
                beat = self._beat
                if seen == self._version:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(beat.wait(), EVERY)
                if seen != self._version:
                    seen = self._version
                    yield {"event": "change", "data": ""}
                looks += 1
                if looks % RECHECKED == 0 and not await still_allowed():
                    return
        finally:
            self._listeners -= 1

    async def _look(self, looking: asyncio.Event) -> None:
        """While there are listeners: look, and wake those who wait. What fails is begun anew."""
        try:
            while self._listeners and not self._closed:
                try:
                    await self._watch(looking)
                except Exception as error:
                    log.warning("open pages cannot follow along just now: %s", error)
                    looking.set()
                    await asyncio.sleep(self.pause)
        finally:
            looking.set()

    async def _watch(self, looking: asyncio.Event) -> None:
        # In a thread: a database that is away takes its time, and the API's other calls have none to lose.
        watch, number = await run_in_threadpool(self._database.commits), self._also()
        try:
            if looking.is_set():
                self._tell()  # a watch that failed may have missed something
            looking.set()
            while self._listeners and not self._closed:
                await asyncio.sleep(self.pause)
                before, number = number, self._also()
                if await run_in_threadpool(watch.changed) or number != before:
                    self._tell()
        finally:
            watch.close()

    def _tell(self) -> None:
        self._version += 1
        beat, self._beat = self._beat, asyncio.Event()
        beat.set()


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
            site.pulse.beats(allowed), headers={**HEADERS, "X-Accel-Buffering": "no"}, ping=30, send_timeout=30
        )

    return answered
