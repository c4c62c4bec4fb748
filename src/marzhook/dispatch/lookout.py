"""The lookout of a process that serves and does not send: does the database answer, and does anybody send?"""

from __future__ import annotations

import logging
from typing import Final

from marzhook.background import Background
from marzhook.clock import Clock
from marzhook.errors import MarzhookError
from marzhook.store.database import Database
from marzhook.telemetry import log_failure

log = logging.getLogger(__name__)

EVERY: Final = 2.0
"""Seconds between two looks."""
PATIENCE: Final = 2.0
"""Seconds after which a look that was not answered means that the database does not answer."""
ALONE: Final = 60.0
"""Seconds for which nobody may send what is owed: workers are restarted, one after the other or all at once."""


class Lookout(Background):
    """A thread that looks, so that whoever asks waits for nothing: neither for the database nor behind those who do."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__("lookout")
        self._database = database
        self._clock = clock
        self._asked_at: float | None = None
        """Since when (monotonic) a look waits for its answer."""
        self._trouble: list[str] = []
        self._alone_since: float | None = None
        self._told = False

    @property
    def not_ready(self) -> list[str]:
        """Reasons, in words, why nothing can be read or written. That nobody sends is none: what comes is kept."""
        asked_at = self._asked_at
        if asked_at is not None and (waited := self._clock.monotonic() - asked_at) > PATIENCE:
            return [f"the database has not answered for {waited:.0f} s"]
        return self._trouble

    def look(self) -> None:
        """Ask the database; tell once when nobody sends what is owed, and when somebody does again."""
        self._asked_at = self._clock.monotonic()
        try:
            with self._database.read() as conn:
                owed = bool(conn.exec_driver_sql("SELECT EXISTS (SELECT 1 FROM pending)").scalar())
            alone = not self._database.workers()
            self._trouble = []
        except MarzhookError as error:
            self._trouble = [f"the database cannot be looked at: {error}"]
            return
        finally:
            self._asked_at = None
        moment = self._clock.monotonic()
        if not alone:
            if self._told:
                log.info("somebody delivers again")
            self._alone_since, self._told = None, False
            return
        self._alone_since = moment if self._alone_since is None else self._alone_since
        if owed and not self._told and moment - self._alone_since >= ALONE:
            self._told = True
            log.error("nobody delivers what is owed; start `marzhook worker`")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception as error:
                log_failure(log, "the lookout stumbled", error)
            self._stopping.wait(EVERY)
