"""Dead letters, and replaying many deliveries: counted first, with progress, and to be stopped."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from starlette.responses import Response

from marzhook import operations
from marzhook.dashboard.events import ACTIONS, SECONDS, deliveries_page, endpoint_names, search_of
from marzhook.dashboard.visit import Pages, Visit, one_of
from marzhook.delivery import CANCELLED, DEAD, DELIVERED
from marzhook.errors import ConflictError, MarzhookError, NotFoundError
from marzhook.runtime import Services
from marzhook.store.outbox import DeliveryFilter
from marzhook.store.search import Counted

log = logging.getLogger(__name__)

pages = Pages()

CHOICES: Final = (DEAD, CANCELLED, DELIVERED)
SHOWN: Final = timedelta(minutes=10)
"""How long the page says what a replay came to."""


@dataclass(slots=True)
class Replay:
    """One replay, which runs or has run."""

    total: int
    """At the start."""
    complete: bool = True
    """Whether that was all: more than can be counted in a moment is not."""
    moved: int = 0
    running: bool = True
    stopped: bool = False
    failed: str = ""
    ended_at: datetime | None = None


class Replays:
    """At most one replay at a time, on a thread of its own; what it has moved stays moved when it is stopped."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: Replay | None = None

    def start(self, which: DeliveryFilter, matched: Counted) -> None:
        """Raises ConflictError while another one runs."""
        with self._lock:
            if self.running:
                raise ConflictError("a replay is running", code="replay_running")
            self.last = replay = Replay(matched.number, matched.complete)
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, args=(replay, which), name="replay", daemon=True)
            self._thread.start()

    @property
    def shown(self) -> Replay | None:
        """The one that runs, or has ended a moment ago."""
        ended_at = self.last.ended_at if self.last else None
        return None if ended_at and self._services.clock.now() - ended_at > SHOWN else self.last

    @property
    def running(self) -> bool:
        return self.last is not None and self.last.running

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait for the chunk that is being moved."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self, replay: Replay, which: DeliveryFilter) -> None:
        try:
            for count in operations.replay(self._services, which):
                replay.moved += count
                if self._stop.is_set():
                    replay.stopped = True
                    break
        except MarzhookError as error:
            replay.failed = str(error)
        except Exception:
            log.exception("a replay failed")
            replay.failed = "internal"
        finally:
            replay.ended_at = self._services.clock.now()
            replay.running = False


@pages.get("/dead")
def show(visit: Visit) -> Response:
    """Dead letters; with `count` also how many deliveries a replay with this filter would take."""
    counted, which = bool(visit.asked("count")), _filter(visit)
    matched: Counted | None = None
    if counted and not visit.wrong:
        try:
            # Count and list share the time that a page may take.
            matched = operations.replayable_within(visit.services, which, SECONDS / 2)
        except NotFoundError as error:
            visit.wrong["endpoint"] = visit.problem(error)[0]
    with visit.services.database.read() as conn:
        names = endpoint_names(visit.language, conn)
        seconds = SECONDS / 2 if counted else SECONDS
        found = deliveries_page(conn, which, visit.asked("before"), visit.services.clock.monotonic, seconds)
    return visit.page(
        "dead.html",
        422 if visit.wrong else 200,
        found=found,
        names=names,
        actions=ACTIONS,
        choices=CHOICES,
        which=which,
        matched=matched,
        replay=visit.site.replays.shown,
    )


@pages.post("/dead/replay")
def start(visit: Visit) -> Response:
    """The filter is in the address, as the page has it: who has to sign in first comes back to it."""
    which = _filter(visit)
    if visit.wrong:
        # The page itself says what is wrong with this filter.
        return visit.to(visit.here)
    try:
        matched = operations.replayable_within(visit.services, which, SECONDS)
    except NotFoundError:
        return visit.to(visit.here)
    visit.site.replays.start(which, matched)
    return visit.to("/dead")


@pages.post("/dead/stop")
def stop(visit: Visit) -> Response:
    visit.site.replays.stop()
    return visit.to("/dead")


def _filter(visit: Visit) -> DeliveryFilter:
    """The filter in the query. What makes no sense there is left out, and said beside its field."""
    wanted = search_of(visit)
    given = visit.request.query_params.getlist("states")
    states = {visit.understood("states", one_of(CHOICES), one) for one in given}
    return operations.replay_filter(
        endpoint_id=wanted.endpoint_id,
        states=tuple(state for state in CHOICES if state in states) or (DEAD,),
        actions=(wanted.action,) if wanted.action else None,
        username=wanted.username,
        since=wanted.since,
        until=wanted.until,
    )
