"""What the dispatcher finds out about endpoints, written down and told: by way of the settler, in its turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from marzhook.clock import Clock
from marzhook.destinations.base import Destination
from marzhook.dispatch import health
from marzhook.dispatch.sender import Sender
from marzhook.dispatch.settler import Settler
from marzhook.endpoint import Endpoint
from marzhook.store import endpoints, outages
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox

log = logging.getLogger(__name__)


class Notices:
    """Called on the dispatcher's thread; writes on the settler's."""

    def __init__(
        self, database: Database, outbox: Outbox, clock: Clock, settler: Settler, wake: Callable[[], None]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._settler = settler
        self._wake = wake
        self._told: dict[int, tuple[str | None, str]] = {}
        """Why each endpoint cannot be sent to, and which options of it are unknown, as the log was told."""

    def change(self, endpoint: Endpoint, **values: Any) -> None:
        """Write down what was found out about an endpoint's address or receiver; noticed everywhere by its revision."""
        if all(getattr(endpoint, key) == value for key, value in values.items()):
            return

        def write() -> None:
            with self._database.write(brief=True) as tx:
                if endpoints.still(tx.conn, endpoint):
                    endpoints.update(tx, endpoint.id, **values)
                tx.after_commit(self._wake)

        self._settler.call(write)

    def watch(self, senders: Iterable[Sender]) -> None:
        """Tell people of endpoints that fail for long, and disable those that have failed for days; the log, of those that
        cannot be sent to as they are stored."""
        now = self._clock.now()
        for sender in senders:
            self._tell_log(sender.destination)
            if sender.failing_since is None or not sender.sends:
                continue
            notice = health.notice(sender.failing_since, sender.failing_stage, now)
            # Who was not tried for days, because nothing ran or it was not understood, gets a try before it is disabled.
            if notice is None or (notice.action == health.DISABLED and not sender.breaker.failing):
                continue
            sender.failing_stage = notice.stage
            if notice.action == health.DISABLED:
                self.disable(sender, health.REASON)
            else:
                self._tell(sender, notice.action)

    def _tell_log(self, destination: Destination) -> None:
        """Once, until it is another one."""
        endpoint, problem = destination.endpoint, destination.problem
        unknown = "" if problem else ", ".join(destination.unknown_options)
        told, self._told[endpoint.id] = self._told.get(endpoint.id), (problem, unknown)
        if told == (problem, unknown):
            return
        fields: dict[str, Any] = {"endpoint": endpoint.id, "name": endpoint.name}
        if problem is not None:
            fields["why"] = problem
            log.warning("endpoint cannot be sent to as it is stored; its deliveries wait", extra={"fields": fields})
        if unknown:
            fields["options"] = unknown
            log.warning("endpoint has options that this version does not know", extra={"fields": fields})

    def disable(self, sender: Sender, why: str) -> None:
        """Send nothing more there until somebody enables it, and tell all other endpoints, once."""
        self._tell(sender, health.DISABLED, why)

    def _tell(self, sender: Sender, action: str, why: str = "") -> None:
        """Publish to all other endpoints, together with what changes: so nobody is told twice, also where several processes
        find it out, or one is killed."""
        endpoint, since, stage = sender.endpoint, sender.failing_since, sender.failing_stage
        now = self._clock.now()
        new = health.event(action, replace(endpoint, failing_since=since), now, why)

        def write() -> None:
            with self._database.write(brief=True) as tx:
                if action == health.FAILING and not outages.told(tx, endpoint.id, stage):
                    return  # another process was before us, or the endpoint is back
                if action == health.DISABLED:
                    if not endpoints.still(tx.conn, endpoint):
                        return  # disabled by another answer, or it has another address by now
                    endpoints.update(tx, endpoint.id, enabled=False, disabled_reason=why)
                    tx.after_commit(self._wake)
                self._outbox.publish(tx, [new], now=now, except_for=endpoint.id)
            fields = {"endpoint": endpoint.id, "name": endpoint.name, **({"why": why} if why else {})}
            log.warning(action, extra={"fields": fields})

        self._settler.call(write)
