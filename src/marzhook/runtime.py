"""The one place that wires it all: build, start, drain, stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from marzhook import __version__, otel
from marzhook.background import stop_all
from marzhook.clock import Clock, SystemClock
from marzhook.destinations.exec import SCHEME, argv_of
from marzhook.dispatch.dispatcher import Dispatcher
from marzhook.dispatch.limits import Limits
from marzhook.dispatch.lookout import Lookout
from marzhook.dispatch.reporter import Reporter
from marzhook.dispatch.upkeep import Upkeep
from marzhook.dispatch.watchdog import LATE, Watchdog
from marzhook.endpoint import masked_url
from marzhook.errors import ConflictError, StartError
from marzhook.retry import RetryPolicy
from marzhook.settings import Settings
from marzhook.sources.ingest import Ingest
from marzhook.sources.marzban_poll import Follower
from marzhook.sources.registry import Registry
from marzhook.sources.review import Review
from marzhook.sources.snapshot import Snapshots
from marzhook.store import admins, endpoints, inbox, sources, stats, users
from marzhook.store.database import Database, Transaction
from marzhook.store.outbox import Outbox
from marzhook.store.retention import Ages
from marzhook.telemetry import Metrics
from marzhook.throttle import Throttle
from marzhook.transport.carriers import Carriers
from marzhook.user import Thresholds

if TYPE_CHECKING:
    from marzhook.otel.spans import Spans

log = logging.getLogger(__name__)

BACKGROUND_SECONDS: Final = 5.0
"""For what is done in the background, to end as the service stops; a panel or a database may take its time to answer."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the faces (API, CLI) work with."""

    settings: Settings
    clock: Clock
    database: Database
    outbox: Outbox
    registry: Registry
    ingest: Ingest
    snapshots: Snapshots
    metrics: Metrics
    throttle: Throttle
    not_ready: Callable[[], list[str]]
    """Reasons, in words, why the service should get no traffic just now; empty: it is ready."""
    spans: Spans | None = None
    """Where calls are to be recorded."""


def environment_endpoints(settings: Settings, *, inbox_url: str | None = None) -> list[endpoints.Wanted]:
    """The endpoints that the settings name, and the built-in inbox's where that is one."""
    common = {"detail": settings.webhook_detail, "concurrency": settings.endpoint_concurrency}
    wanted = [
        endpoints.Wanted(
            "webhook",
            url,
            {
                **common,
                "name": masked_url(url),
                "format": settings.webhook_format,
                "secret": settings.webhook_secret,
                "secret_mode": settings.webhook_secret_mode,
                "signatures": settings.signatures,
            },
        )
        for url in settings.webhook_addresses
    ]
    if settings.discord_webhook_url:
        wanted.append(endpoints.Wanted("discord", settings.discord_webhook_url, {**common, "name": "Discord"}))
    chats = (settings.telegram_channel,) if settings.telegram_channel else settings.telegram_admins
    for chat in chats if settings.telegram_token else ():
        options: dict[str, Any] = {"chat": chat, "language": settings.language}
        if settings.telegram_chats:
            options["chats"] = dict(settings.telegram_chats)
        address = f"{settings.telegram_url.rstrip('/')}/bot{settings.telegram_token}"
        values = {**common, "name": f"Telegram {chat}", "options": options}
        wanted.append(endpoints.Wanted("telegram", address, values))
    for url in settings.alert_urls:
        values = {**common, "name": f"Alert {masked_url(url)}", "options": {"language": settings.language}}
        wanted.append(endpoints.Wanted("alert", url, values))
    if settings.sql_url:
        wanted.append(endpoints.Wanted("sql", settings.sql_url, {**common, "name": "Database"}))
    if settings.exec_command:
        url = SCHEME + settings.exec_command
        wanted.append(endpoints.Wanted("exec", url, {**common, "name": masked_url(url)}))
    if inbox_url:
        wanted.append(endpoints.Wanted("webhook", inbox_url, {**common, "name": "Inbox"}))
    return wanted


def carriers(settings: Settings, clock: Clock) -> Carriers:
    """What sends, as the settings want it."""
    return Carriers(
        clock,
        allowed=settings.allow_addresses,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        programs=programs(settings),
    )


def programs(settings: Settings) -> tuple[str, ...]:
    """What endpoints of the kind exec may run; whoever writes the settings' own command allows it by that."""
    named = (argv_of(settings.exec_command)[0],) if settings.exec_command else ()
    return (*settings.exec_allow, *named)


def build_services(
    settings: Settings,
    *,
    clock: Clock | None = None,
    not_ready: Callable[[], list[str]] = list,
    spans: Spans | None = None,
) -> Services:
    """Open the database (creating or upgrading it) and what works on it; starts nothing. Raises StartError."""
    clock = clock or SystemClock()
    database = Database.open(
        settings.database_url, secret_keys=settings.secret_keys, direct_url=settings.worker_database_url
    )
    database.upgrade()
    outbox = Outbox(database, spans)
    metrics = Metrics()
    registry = Registry(
        database,
        outbox,
        clock,
        published_actions=settings.published_actions,
        thresholds=Thresholds(settings.usage_percents, settings.days_left),
        metrics=metrics,
    )
    snapshots = Snapshots(
        database,
        outbox,
        clock,
        published_actions=settings.published_actions,
        thresholds=Thresholds(settings.usage_percents, settings.days_left),
        detail=settings.webhook_detail,
    )
    ingest = Ingest(
        database,
        outbox,
        clock,
        snapshots,
        secret=settings.ingest_secret,
        detail=settings.webhook_detail,
        metrics=metrics,
    )
    throttle = Throttle(clock.monotonic)
    return Services(settings, clock, database, outbox, registry, ingest, snapshots, metrics, throttle, not_ready, spans)


class Runtime:
    """The service without its faces: dispatcher and review on one database. On PostgreSQL there may be several.

    `start` raises StartError when the database cannot be used or is held by another process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        serves: bool = True,
        dispatches: bool = True,
        concurrency: int | None = None,
    ) -> None:
        """`serves`: it has faces, and the settings' endpoints and admin are its to write down. `dispatches`: it sends.
        `concurrency`: requests of all endpoints together that may be on their way."""
        self._started = False
        self._serves, self._dispatches = serves, dispatches
        self.address: str | None = None
        """`http://host:port` where this machine reaches the faces; None: there are none, or nobody said."""
        self._events_before = 0
        """The newest event that `/metrics` has counted."""
        # Claimed before anything is written: two services must not upgrade or deliver from one database.
        claimed = Database.open(settings.database_url)
        claimed.claim()
        self._claim = claimed
        try:
            self._sending = otel.start(settings.otel)
            spans = self._sending.spans if self._sending else None
            self.services = build_services(settings, clock=clock, not_ready=self._not_ready, spans=spans)
        except BaseException:
            claimed.close()
            raise
        s = self.services
        shared = s.database.kind != "SQLite"
        name = worker_name("run" if serves else "worker")
        if not shared and not (serves and dispatches):
            s.database.close()
            claimed.close()
            raise StartError(
                "on SQLite one process does all; to have several, set MARZHOOK_DATABASE_URL to postgresql://…"
            )
        self._caretaker = s.database.caretaker()
        self.new_admin: tuple[str, str] | None = None
        """Name and password of the admin that was made, shown once."""
        self.dispatcher = Dispatcher(
            s.database,
            s.outbox,
            s.clock,
            s.metrics,
            transport=carriers(settings, s.clock),
            limits=Limits(
                settings.retry_policy,
                RetryPolicy(settings.rejected_schedule),
                settings.connect_timeout,
                settings.request_timeout,
                in_flight=concurrency,
            ),
            interval=settings.send_interval,
            shared=name if shared else "",
            spans=s.spans,
        )
        self.review = Review(
            s.database,
            s.outbox,
            s.clock,
            published_actions=settings.published_actions,
            thresholds=Thresholds(settings.usage_percents, settings.days_left),
            metrics=s.metrics,
            mine=self._caretaker.mine,
        )
        self.follower = Follower(
            s.database,
            s.snapshots,
            s.clock,
            interval=settings.poll_interval,
            metrics=s.metrics,
            ca_file=settings.ca_file,
            mine=self._caretaker.mine,
        )
        self.watchdog = Watchdog(
            s.database,
            s.outbox,
            s.clock,
            resting=self.dispatcher.resting,
            # With an interval, waiting for the next look is no fault.
            late=LATE + (settings.send_interval or 0.0),
            mine=self._caretaker.mine,
        )
        self.upkeep = Upkeep(
            s.database,
            s.clock,
            ages=Ages(timedelta(days=settings.retention_days), timedelta(days=settings.dead_retention_days)),
            metrics=s.metrics,
            mine=self._caretaker.mine,
        )
        # On a connection of its own: calls that have all the others do not make the database one that does not answer.
        self.lookout = Lookout(claimed, s.clock)
        self.reporter = Reporter(s.database, s.clock, self.dispatcher, name)
        s.metrics.before_render(self._measure)
        if self._sending is not None:
            self._sending.measure(s.metrics.families)

    def start(self) -> None:
        """Write down what the settings say, then deliver and review until `stop`."""
        s = self.services
        if self._serves:
            self._write_down()
        if self._dispatches:
            # Now, while there is somebody to tell: through a pooler it would never hold anything.
            s.database.prove_session()
            self.review.start()
            self.dispatcher.start()
            self.upkeep.start()
            self.watchdog.start()
            self.follower.start()
            self.reporter.start()
        else:
            self.lookout.start()
        self._started = True
        database = {"database": s.database.name, s.database.kind.lower(): s.database.version()}
        log.info("started", extra={"fields": database})

    def _write_down(self) -> None:
        s = self.services
        now = s.clock.now()

        def work(tx: Transaction) -> None:
            s.database.vault.rotate(tx.conn)
            if self.address:
                inbox.move(s.database, tx, self.address)
            endpoints.sync_environment(
                tx, environment_endpoints(s.settings, inbox_url=inbox.address(s.database, tx.conn)), now=now
            )
            name = s.settings.sudo_username or "admin"
            if s.settings.sudo_password:
                _ensure_sudo(tx, name, s.settings.sudo_password, now)
            else:
                # Where it is repeated because nobody knows whether it was done, he may be there: with this password.
                self.new_admin = admins.ensure_first(tx, now, username=name) or self.new_admin
            self._events_before = stats.last_event(tx.conn)

        s.database.transact(work, repeatable=True)
        self.review.refresh_thresholds()

    def stop(self) -> None:
        """Sources first, so that nothing new comes; then what is on its way; the database last.

        Within 30 s, whoever does not answer any more: of what a thread that is left behind had begun, the database undoes what
        was not committed, and lets go of its locks, when the process is gone.
        """
        stop_all(
            self.lookout,
            self.follower,
            self.reporter,
            self.upkeep,
            self.watchdog,
            self.review,
            within=BACKGROUND_SECONDS,
        )
        if self._started and self._dispatches:
            self.dispatcher.stop()
        if self._sending is not None:
            self._sending.stop_measuring()
        self._caretaker.close()
        self.services.database.close()
        self._claim.close()
        if self._started:
            log.info("stopped")
        if self._sending is not None:
            self._sending.stop()

    def _not_ready(self) -> list[str]:
        if not self._started:
            return ["starting"]
        return self.dispatcher.not_ready + self.watchdog.trouble if self._dispatches else self.lookout.not_ready

    def _measure(self) -> None:
        s = self.services
        now = s.clock.now()
        with s.database.read() as conn:
            names = {endpoint.id: f"{endpoint.id}:{endpoint.name}" for endpoint in endpoints.all_endpoints(conn)}
            pending = stats.pending_counts(conn)
            oldest = stats.oldest_due(conn, now)
            next_due = users.next_due(conn)
            last_event = stats.last_event(conn)
            followed = sources.all_sources(conn)
        s.metrics.set_workers(1 if s.database.kind == "SQLite" else len(s.database.workers()))
        for source in followed:
            seen_at = source.passed_at or source.created_at
            s.metrics.set_source(source.name, (now - seen_at).total_seconds(), source.error is not None)
        for endpoint_id, name in names.items():
            s.metrics.set_queue(name, pending.get(endpoint_id, 0), oldest.get(endpoint_id, 0.0))
        # Looked up now, and not noted by the review: one that is stuck could not tell how late it is.
        s.metrics.set_review_lag(0.0 if next_due is None else max(0.0, (now - next_due).total_seconds()))
        # Told by the ids, which have no gaps: so those count, too, that other processes publish (`marzhook send`).
        s.metrics.count_published(max(0, last_event - self._events_before))
        self._events_before = max(last_event, self._events_before)


def _ensure_sudo(tx: Transaction, username: str, password: str, now: datetime) -> None:
    try:
        admins.ensure_sudo(tx, username, password, now)
    except ConflictError:
        raise StartError(
            f"SUDO_USERNAME is {username}, and there is an admin whose name differs from it by upper and lower case only;"
            " write it as it was at first"
        ) from None


def worker_name(role: str) -> str:
    """As others see this process: in `marzhook workers`, and in PostgreSQL's list of sessions."""
    return f"marzhook {__version__} {role}, process {os.getpid()} on {socket.gethostname()}"


_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def hold_signals() -> None:
    """From now on SIGTERM and SIGINT wait for `wait_for_signal`. Call it before any thread is started."""
    # No handler that sets an Event: a signal that comes while `Event.wait` begins deadlocks on that event's lock, or is
    # noticed only when the wait's time is up. The kernel keeps what is blocked, and `sigwait` misses nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def wait_for_signal() -> None:
    """Until SIGTERM or SIGINT has come, also if that was since `hold_signals`."""
    signal.sigwait(_ENDING)
