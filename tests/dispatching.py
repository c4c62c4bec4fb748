"""A database with one dispatcher, on the machine's clock: what tests of the dispatcher work with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from marzhook.clock import Clock, SystemClock
from marzhook.dispatch.dispatcher import Dispatcher
from marzhook.dispatch.limits import Limits
from marzhook.endpoint import Endpoint
from marzhook.event import NewEvent
from marzhook.retry import RetryPolicy
from marzhook.store import endpoints, history
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.telemetry import Metrics
from marzhook.transport.carriers import Carriers
from marzhook.transport.http import HttpTransport

CLOCK = SystemClock()
QUICK = RetryPolicy((0.05,) * 200, jitter=0.0)


class House:
    """A database with one dispatcher."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock = CLOCK) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock

    def endpoint(self, url: str, **values: Any) -> Endpoint:
        with self.database.write() as tx:
            return endpoints.create(
                tx, now=self.clock.now(), **{"kind": "webhook", "url": url, "source": "environment", **values}
            )

    def publish(self, usernames: Sequence[str], *, action: str = "user_updated", **detail: Any) -> list[int]:
        with self.database.write() as tx:
            new = [NewEvent(action, name, {"n": i, **detail}) for i, name in enumerate(usernames)]
            return self.outbox.publish(tx, new, now=self.clock.now())

    def event(self, username: str, **detail: Any) -> NewEvent:
        return NewEvent("user_updated", username, detail)

    def load(self, endpoint_id: int) -> Endpoint:
        with self.database.read() as conn:
            return endpoints.get(conn, endpoint_id)

    def fails(self, endpoint: Endpoint, since: datetime, *, stage: int = 0) -> None:
        """It has accepted nothing since then, and people were told so often; its breaker is closed, as after a restart."""
        with self.database.write() as tx:
            tx.conn.exec_driver_sql(
                f"UPDATE endpoints SET failing_since = {since.timestamp()!r}, failing_stage = {stage} WHERE id = {endpoint.id}"
            )

    @contextmanager
    def dispatching(
        self,
        policy: RetryPolicy = QUICK,
        *,
        rejected_policy: RetryPolicy | None = None,
        ca_file: str | None = None,
        shared: str = "",
        transport: Carriers | None = None,
        **limits: float,
    ) -> Iterator[Dispatcher]:
        dispatcher = Dispatcher(
            self.database,
            self.outbox,
            self.clock,
            Metrics(),
            transport=transport or HttpTransport(self.clock, ca_file=ca_file),
            limits=Limits(policy, rejected_policy or policy, **{"first_probe": 0.05, **limits}),
            shared=shared,
        )
        dispatcher.start()
        try:
            yield dispatcher
        finally:
            dispatcher.stop(timeout=1)

    def count(self, table: str, where: str = "true") -> int:
        with self.database.read() as conn:
            return int(conn.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {where}").scalar_one())

    def states(self) -> dict[str, int]:
        with self.database.read() as conn:
            return dict(conn.exec_driver_sql("SELECT state, count(*) FROM settled GROUP BY state").all())

    def attempts(self, endpoint: Endpoint, event_id: int) -> list[tuple[int, int | None, str | None]]:
        with self.database.read() as conn:
            return [(a.number, a.status, a.error) for a in history.attempts(conn, endpoint.id, event_id)]
