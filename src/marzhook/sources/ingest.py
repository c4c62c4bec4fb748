"""Taking in what panels send: each of their events once, all of a request in one transaction."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from marzhook.clock import Clock
from marzhook.errors import ForbiddenError, InvalidError
from marzhook.sources.panels.base import Incoming, Panel, Rejection
from marzhook.sources.snapshot import Snapshots
from marzhook.store import endpoints, ingested, rejected, sources, telegram_ids
from marzhook.store.database import Database, Transaction
from marzhook.store.ingested import Arrival
from marzhook.store.outbox import Outbox
from marzhook.store.rejected import NewRejected
from marzhook.telemetry import Metrics, fields

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request's items; together they are all of them."""

    accepted: int
    """New, and on disk."""
    duplicates: int
    """Taken before: the panel did not get its answer, and sent them again; or polling has told them."""
    rejected: int
    """Kept aside with the reason."""


class Ingest:
    """Takes panels' requests. What the panel sent has passed the panel's own NOTIFY_… settings, so ours are not asked."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        snapshots: Snapshots,
        *,
        secret: str | None,
        detail: str,
        metrics: Metrics,
    ) -> None:
        """`secret`: MARZHOOK_INGEST_SECRET. `detail`: WEBHOOK_DETAIL."""
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._snapshots = snapshots
        self._secret = secret
        self._detail = detail
        self._metrics = metrics

    def admit(self, panel: Panel, headers: Mapping[str, str], body: bytes, *, local: bool) -> None:
        """Let in who shows the secret, and where there is none, who is on this machine. Header names are in lower case.

        Raises ForbiddenError.
        """
        if self._secret is None:
            if not local:
                raise self._refused(
                    panel,
                    "without a secret only panels on this machine may send, and without a proxy in between; set"
                    " MARZHOOK_INGEST_SECRET here, and the same as the panel's webhook secret",
                    "secret_needed",
                )
        elif not panel.authentic(self._secret, headers, body):
            what = "signature does not match" if panel.signs else "x-webhook-secret is not"
            raise self._refused(
                panel,
                f"{what} MARZHOOK_INGEST_SECRET (or, where that is unset, WEBHOOK_SECRET); make the panel's webhook secret"
                " the same",
                "wrong_secret",
            )

    def take(self, panel: Panel, body: bytes, *, source_id: int | None = None) -> Taken:
        """Store all events of the body that are new, owed to every endpoint that wants them. On disk when this returns.

        `source_id`: which followed panel sends; where there is none of that number, or nobody says which, and only one of its
        kind is followed, it is that one.

        Raises InvalidError where the body is no JSON, StoreBusyError where nothing could be written.
        """
        with _uncollected():
            return self._take(panel, body, source_id)

    def _take(self, panel: Panel, body: bytes, source_id: int | None) -> Taken:
        try:
            items = panel.parse(body, credentials=self._keeps_credentials())
        except InvalidError as error:
            self._refused(panel, str(error), error.code)
            raise
        incoming = [item for item in items if isinstance(item, Incoming)]
        refused = [item for item in items if isinstance(item, Rejection)]

        def store(tx: Transaction) -> int:
            kept = [NewRejected(item.code, item.reason, item.body) for item in refused]
            rejected.keep(tx, panel.name, kept, now=self._clock.now())
            return self._publish(tx, panel, incoming, source_id)

        accepted = self._database.transact(store)
        taken = Taken(accepted, len(incoming) - accepted, len(refused))
        self._tell(panel, taken, refused)
        return taken

    def _publish(self, tx: Transaction, panel: Panel, incoming: list[Incoming], source_id: int | None) -> int:
        # Read inside the transaction, so that times grow with ids.
        now = self._clock.now()
        arrivals = [Arrival(one.fingerprint, one.tries, one.dated) for one in incoming]
        verdicts = ingested.sift(tx, arrivals, now=now)
        new = [one for one, is_new in zip(incoming, verdicts, strict=True) if is_new]
        followed = sources.following(tx.conn, panel.name)
        if source_id is not None and sources.exists(tx.conn, source_id):
            followed = [one for one in followed if one == source_id]
        elif source_id is not None:
            log.warning(
                "a panel's webhook says ?source= with the number of none that is followed; `marzhook source list` shows them",
                extra=fields(source=panel.name, number=source_id),
            )
        if len(followed) == 1:
            untold = self._snapshots.sift(tx, followed[0], new, now=now)
            new = [one for one, is_untold in zip(new, untold, strict=True) if is_untold]
        telegram_ids.learn(tx, [one.event.detail for one in new])
        self._outbox.publish(tx, [one.event for one in new], now=now)
        return len(new)

    def _keeps_credentials(self) -> bool:
        """Whether anybody is to get them; else they are not stored at all."""
        return self._detail == "full" or self._database.look(endpoints.any_full)

    def _refused(self, panel: Panel, message: str, code: str) -> ForbiddenError:
        self._metrics.count_refused(panel.name, code)
        log.warning("a panel's request was refused", extra=fields(source=panel.name, code=code, reason=message))
        return ForbiddenError(message, code=code)

    def _tell(self, panel: Panel, taken: Taken, refused: list[Rejection]) -> None:
        outcomes = {"accepted": taken.accepted, "duplicate": taken.duplicates, "rejected": taken.rejected}
        for outcome, events in outcomes.items():
            if events:
                self._metrics.count_ingested(panel.name, outcome, events)
        if refused:
            log.warning(
                "events of a panel were rejected; `marzhook ingest rejected` shows them",
                extra=fields(source=panel.name, rejected=len(refused), code=refused[0].code, reason=refused[0].reason),
            )
        log.info(
            "a panel's request was taken",
            extra=fields(
                source=panel.name, accepted=taken.accepted, duplicates=taken.duplicates, rejected=taken.rejected
            ),
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: it would look through all that is parsed again and again, find nothing to free, and
    double the time of a body of 10 MB, for the threads that wait as well."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
