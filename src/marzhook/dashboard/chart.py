"""Deliveries over time, as a chart that reads as a table, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from marzhook.runtime import Services
from marzhook.store.outcomes import Bucket, Hours

COUNTED: Final = 0.03
"""Seconds that counting what was delivered takes at the most; a long time is counted over several visits after a start."""
AGAIN: Final = 0.5
"""Seconds after which a page whose chart is not complete looks again."""
DAYS: Final = 14
ENDPOINTS: Final = 200
"""Whose counts are kept at the most: those that were looked at last."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A column for each stretch of time, the oldest first."""

    buckets: Sequence[Bucket]

    def total(self, name: str) -> int:
        """Deliveries that are in this state."""
        return sum(getattr(bucket, name) for bucket in self.buckets)

    @property
    def complete(self) -> bool:
        """Whether everything that was delivered is counted."""
        return all(bucket.complete for bucket in self.buckets)

    @property
    def tallest(self) -> int:
        """Deliveries in the highest column; at least 1."""
        return max([1, *(b.delivered + b.pending + b.dead + b.cancelled for b in self.buckets)])


def hourly(services: Services, conn: sa.Connection, hours: Hours, now: datetime, count: int) -> Chart:
    """The last so many hours, with the one that has begun."""
    begun = now.replace(minute=0, second=0, microsecond=0)
    return _chart(services, conn, hours, now, [begun + timedelta(hours=i - count + 1) for i in range(count + 1)])


class Histories:
    """How each endpoint fared on the last DAYS days, by UTC."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hours: dict[int, Hours] = {}

    def get(self, conn: sa.Connection, endpoint_id: int) -> Chart:
        now = self._services.clock.now()
        hours = self._hours.pop(endpoint_id, None) or Hours(endpoint_id)
        self._hours[endpoint_id] = hours
        while len(self._hours) > ENDPOINTS:
            self._hours.pop(next(iter(self._hours)), None)
        begun = now.replace(hour=0, minute=0, second=0, microsecond=0)
        edges = [begun + timedelta(days=i - DAYS + 1) for i in range(DAYS + 1)]
        return _chart(self._services, conn, hours, now, edges)


def _chart(services: Services, conn: sa.Connection, hours: Hours, now: datetime, edges: Sequence[datetime]) -> Chart:
    found = hours.buckets(
        conn,
        [edge.timestamp() for edge in edges],
        now=now.timestamp(),
        seconds=COUNTED,
        monotonic=services.clock.monotonic,
    )
    return Chart(found)
