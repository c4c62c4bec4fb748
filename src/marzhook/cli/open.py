"""What commands work on: the settings and the database, beside a service that may be running.

Commands write to the database themselves. A running service notices another process's commit within a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from marzhook.errors import DatabaseError, SettingError

if TYPE_CHECKING:
    from marzhook.admin import Admin
    from marzhook.clock import Clock
    from marzhook.settings import Settings
    from marzhook.sources.registry import Registry
    from marzhook.store.database import Database, Transaction
    from marzhook.store.outbox import Outbox


ATTACHED: Final = "marzhook listen"
"""The name of the endpoint that `listen --attach` is while it runs: it is of the environment, and in no setting."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Settings, clock, database and outbox; the registry is made when somebody asks for it."""

    settings: Settings
    clock: Clock
    database: Database
    outbox: Outbox
    place: str
    """Where the settings say that the database is."""
    trial: bool = False
    """There is none yet: this one is to try with, and gone afterwards."""

    def registry(self) -> Registry:
        from marzhook.sources.registry import Registry
        from marzhook.user import Thresholds

        settings = self.settings
        return Registry(
            self.database, self.outbox, self.clock, published_actions=settings.published_actions,
            thresholds=Thresholds(settings.usage_percents, settings.days_left),
        )  # fmt: skip

    def by(self) -> Admin | None:
        """In whose name the command acts: the first sudo admin; None before the service has made one."""
        from marzhook.store import admins

        with self.database.read() as conn:
            return next((admin for admin in admins.find(conn) if admin.is_sudo), None)

    def sync_endpoints(self) -> None:
        """Take the settings' endpoints into the database, where no service is running that does so itself.

        Beside a running service this would be wrong: its environment counts, and this shell's may lack it.
        """
        settings = self.settings
        # No settings here and endpoints there: this shell stands in the wrong folder, rather than that all were removed.
        from marzhook.runtime import environment_endpoints

        if not environment_endpoints(settings) or self.database.holder() is not None:
            return
        from marzhook.store import endpoints, inbox

        def sync(tx: Transaction) -> None:
            wanted = environment_endpoints(settings, inbox_url=inbox.address(self.database, tx.conn))
            endpoints.sync_environment(tx, wanted, now=self.clock.now())

        # A second time it finds nothing to change.
        self.database.transact(sync, repeatable=True)


def nowhere(place: str) -> str:
    """What to do where there is no database."""
    return (
        f"there is no database at {place} yet; start the service with `make run`, or go to the folder in which it runs, or"
        " set MARZHOOK_DATABASE_URL"
    )


@contextmanager
def opened(*, trial: bool = False) -> Iterator[Opened]:
    """Load the settings and open their database, brought to this version's schema.

    Where there is none yet DatabaseError is raised: an empty list from a fresh file in the wrong folder would mislead, and
    what is published into one would never be sent. `trial`: then work on a database that is gone afterwards instead.
    Raises SettingError, DatabaseError, DatabaseNewerError, StoreBusyError.
    """
    from marzhook import settings as marzhook_settings
    from marzhook.clock import SystemClock
    from marzhook.store.database import Database
    from marzhook.store.outbox import Outbox

    settings = marzhook_settings.load()
    database = Database.open(
        settings.database_url, secret_keys=settings.secret_keys, direct_url=settings.worker_database_url
    )
    with ExitStack() as stack:
        stack.callback(database.close)
        place = database.name
        there = database.exists()
        if not there and not trial:
            raise DatabaseError(nowhere(place))
        if not there:
            folder = stack.enter_context(TemporaryDirectory(prefix="marzhook-"))
            database = Database.open(f"sqlite:///{folder}/marzhook.db")
            stack.callback(database.close)
        database.upgrade()
        yield Opened(settings, SystemClock(), database, Outbox(database), place, trial=not there)


def time_option(name: str, text: str | None) -> datetime | None:
    """An ISO 8601 time; without an offset it is this machine's local time. Raises SettingError naming the option."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text.strip())
        return at.astimezone()
    except (ValueError, OverflowError):
        raise SettingError(
            f"{name} {ascii(text)[:60]} is not a time; write 2026-11-23, 2026-11-23T13:15 or 2026-11-23T13:15:00Z",
            code="usage",
        ) from None


def choice_options(name: str, values: list[str] | None, choices: tuple[str, ...]) -> tuple[str, ...] | None:
    """The values of a repeatable option, each one of the choices; None where none was given. Raises SettingError."""
    for value in values or ():
        if value not in choices:
            raise SettingError(f"{name} must be one of {', '.join(choices)}, not {ascii(value)[:60]}", code="usage")
    return tuple(values) if values else None
