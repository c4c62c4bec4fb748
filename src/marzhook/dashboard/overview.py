"""The first page: whether events arrive, and what is wrong where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final

from markupsafe import Markup
from starlette.responses import Response

from marzhook.dashboard import words
from marzhook.dashboard.chart import Chart, hourly
from marzhook.dashboard.events import called
from marzhook.dashboard.visit import Pages, Visit
from marzhook.delivery import Attempt
from marzhook.endpoint import Endpoint
from marzhook.runtime import Services
from marzhook.store import endpoints, outcomes, stats
from marzhook.store.outcomes import Hours, Owed

pages = Pages()

HOURS: Final = 24
KEPT: Final = 0.5
SHARE: Final = 100
"""Figures are kept for KEPT seconds, and for SHARE times as long as they took: however many pages are open, and however
long the backlog is, they take a hundredth of one core, until they would be LONGEST old."""
LONGEST: Final = 10.0
"""Seconds that figures are kept at the most, also where what they took was waiting."""
COUNTING: Final = 20
"""The same while the past is still being counted, which is soon over."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One endpoint at a moment."""

    endpoint: Endpoint
    owed: Owed
    oldest: float
    """Seconds for which the longest-waiting delivery has been due."""
    tries: Sequence[Attempt]
    latencies: Sequence[float]

    def percentile(self, share: float) -> float | None:
        return percentile(self.latencies, share)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the first page shows."""

    at: float
    state: str
    """What was committed before is in it (`Pulse.state`); "" where that cannot be said."""
    chart: Chart
    standings: Sequence[Standing]
    _shown: dict[str, Markup] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def shown(self, language: str, render: Callable[[], Markup]) -> Markup:
        """As a part of the page, made once for each language: who has it open gets it anew when all others do."""
        with self._lock:
            if language not in self._shown:
                self._shown[language] = render()
            return self._shown[language]

    def now(self, name: str) -> int:
        return sum(getattr(standing.owed, name) for standing in self.standings)

    @property
    def oldest(self) -> float | None:
        """Since when (Unix seconds) the longest-waiting delivery has been due; None: none is late. Its age would
        be read long after it was right."""
        age = max((standing.oldest for standing in self.standings), default=0.0)
        return self.at - age if age >= 1 else None

    def percentile(self, share: float) -> float | None:
        return percentile(sorted(seconds for one in self.standings for seconds in one.latencies), share)


def percentile(rising: Sequence[float], share: float) -> float | None:
    """The least value that `share` of all are not above; None where there are none."""
    return rising[max(0, -(-len(rising) * round(share * 100) // 100) - 1)] if rising else None


class Figures:
    """The newest snapshot, made anew when it is asked for and too old. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = Lock()
        self._hours = Hours()
        self._made: Snapshot | None = None
        self._until = 0.0

    def get(self, state: str = "") -> tuple[Snapshot, float]:
        """The snapshot for a page that is made at this state, and after how many seconds it is worth asking again, where it is
        of an older one or its past is not all counted; else 0."""
        monotonic = self._services.clock.monotonic
        with self._lock:
            began = monotonic()
            fresh = self._made is None or began >= self._until
            if self._made is None or fresh:
                self._made = _snapshot(self._services, self._hours, state)
                ended = monotonic()
                share = SHARE if self._made.chart.complete else COUNTING
                self._until = ended + min(LONGEST, max(KEPT, share * (ended - began)))
            fresh = fresh or (state != "" and state == self._made.state)
            return self._made, 0.0 if fresh and self._made.chart.complete else self._until - began


def _snapshot(services: Services, hours: Hours, state: str) -> Snapshot:
    now = services.clock.now()
    with services.database.read() as conn:
        owed = outcomes.owed(conn)
        oldest = stats.oldest_due(conn, now)
        standings = [
            Standing(
                endpoint,
                owed.get(endpoint.id, Owed()),
                oldest.get(endpoint.id, 0.0),
                outcomes.last_tries(conn, endpoint.id),
                outcomes.latencies(conn, endpoint.id),
            )
            for endpoint in endpoints.all_endpoints(conn)
        ]
        chart = hourly(services, conn, hours, now, HOURS)
        return Snapshot(now.timestamp(), state, chart, standings)


@pages.get("/")
def overview(visit: Visit) -> Response:
    snapshot, again = visit.site.figures.get(visit.state)
    again = visit.site.pulse.worth(again)
    figures = snapshot.shown(visit.language.code, partial(_figures, visit, snapshot))
    return visit.page("overview.html", snapshot=snapshot, figures=figures, again=again)


def _figures(visit: Visit, snapshot: Snapshot) -> Markup:
    """What everybody sees alike."""
    rows = [(one, words.health(visit.language, one.endpoint, one.tries)) for one in snapshot.standings]
    # What needs somebody comes first.
    order = ("failing", "paused", "new", "well")
    rows.sort(key=lambda row: (order.index(row[1].kind), row[0].endpoint.id))
    names = called(visit.language, (one.endpoint for one in snapshot.standings))
    return visit.part("figures.html", snapshot=snapshot, chart=snapshot.chart, rows=rows, names=names)
