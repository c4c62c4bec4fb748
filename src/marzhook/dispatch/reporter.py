"""The reporter: now and then it writes down, for people, how this process fares. Nothing is decided by that."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import Final

from marzhook.background import Background
from marzhook.clock import Clock
from marzhook.dispatch.dispatcher import Dispatcher
from marzhook.errors import MarzhookError
from marzhook.store import workers
from marzhook.store.database import Database
from marzhook.store.workers import Figures, Process

log = logging.getLogger(__name__)

EVERY: Final = 5.0
"""Seconds over which a rate is measured."""
FIRST: Final = 0.5
"""Seconds between two looks whether there is anything to tell of yet."""
KEPT: Final = 60.0
"""Seconds for which a report stands where nothing has changed: who does nothing writes nearly nothing."""


class Reporter(Background):
    """A thread that looks at a dispatcher from outside."""

    def __init__(self, database: Database, clock: Clock, dispatcher: Dispatcher, name: str) -> None:
        """`name`: what the database knows this process by, see `Database.workers`."""
        super().__init__("reporter")
        self._database = database
        self._clock = clock
        self._dispatcher = dispatcher
        self._process = Process(secrets.token_hex(8), name, clock.now())
        self._before: tuple[float, int] | None = None
        """When (monotonic) the last look was, and what had been delivered by then."""
        self._told: Figures | None = None
        self._told_at = 0.0

    def look(self) -> None:
        """Report, where there is something new to say. Raises MarzhookError when it cannot be written."""
        now, moment = self._clock.now(), self._clock.monotonic()
        session, delivered, lag = self._dispatcher.figures(now.timestamp())
        if session is None and self._database.kind != "SQLite":
            return
        at, before = self._before or (moment, delivered)
        rate = (delivered - before) / (moment - at) if moment > at else 0.0
        self._before = moment, delivered
        figures = Figures(session, round(rate, 1), round(lag, 3))
        if figures == self._told and moment < self._told_at + KEPT:
            return
        # A report that is lost is no loss: nobody waits for the disk.
        with self._database.write(durable=False) as tx:
            workers.report(tx, self._process, figures, now)
        self._told, self._told_at = figures, moment

    def _run(self) -> None:
        while not self._stopping.wait(EVERY if self._told else FIRST):
            try:
                self.look()
            except MarzhookError as error:
                log.debug("no report: %s", error)
            except Exception:
                log.exception("the reporter stumbled")
        if self._told is not None:
            with suppress(MarzhookError), self._database.write(durable=False) as tx:
                workers.leave(tx, self._process.id)
