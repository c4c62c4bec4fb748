"""Whether what is no HTTP request can be done here, as far as that is known without doing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from marzhook.cli.reach import Reach, Stopped, connect, resolve
from marzhook.destinations.exec import argv_of
from marzhook.endpoint import Endpoint
from marzhook.preflight import trouble
from marzhook.transport import alerts, tables

_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}


def ready(endpoint: Endpoint, programs: Sequence[str], timeout: float) -> Reach:
    """Of an alert, a database or a command. `programs`: those that may be run; `timeout`: a database's seconds."""
    if endpoint.kind != "sql":
        found = trouble(endpoint.kind, endpoint.url, programs)
        if found is None:
            return Reach(_ready(endpoint))
        problem, _, mend = found.told.partition("; ")
        return Reach("", problem, found.mend or f"{mend[0].upper()}{mend[1:]}.")
    return _database(endpoint.url, str(endpoint.options.get("prefix", "")), timeout)


def _ready(endpoint: Endpoint) -> str:
    if endpoint.kind == "exec":
        return f"{argv_of(endpoint.url)[0]} can be run"
    return f"Apprise is installed, and takes this for {alerts.service_of(endpoint.url)[0]}"


def _database(url: str, prefix: str, timeout: float) -> Reach:
    try:
        parts = sa.make_url(url)
        _knock(parts, timeout)
        return _file(parts) or Reach(tables.trial(url, prefix, timeout))
    except Stopped as stop:
        return Reach("", stop.problem, stop.mend)
    except tables.OtherColumnsError as error:
        return Reach(
            "", f"its table {error.table} is somebody else's: it has no column {error.column}",
            'Set the option "prefix", such as {"prefix": "marzhook_"}, and it gets tables of its own.',
        )  # fmt: skip
    except ImportError as error:
        problem, _, mend = tables.in_words(error).partition("; ")
        return Reach("", problem, mend[0].upper() + mend[1:])
    except (sa.exc.NoSuchModuleError, sa.exc.ArgumentError) as error:
        return Reach("", tables.in_words(error), "Write it like postgresql://user:password@host/database.")
    except sa.exc.DBAPIError as error:
        if error.statement is None:
            mend = "Check user, password and database in the URL."
        else:
            mend = "Let its user read, write and create tables there."
        return Reach("", tables.in_words(error), mend)
    except sa.exc.SQLAlchemyError as error:
        return Reach("", tables.in_words(error), "Look into the database's log.")


def _knock(url: sa.URL, timeout: float) -> None:
    """At the door of a server, whose driver would only say that it did not come in. Raises Stopped."""
    port = url.port or _PORTS.get(url.get_backend_name())
    if url.host and port and "," not in url.host:
        start = "Start the database's server, or correct the port in the URL."
        connect(url.host, resolve(url.host, port, timeout), port, timeout, start).close()


def _file(url: sa.URL) -> Reach | None:
    """What is to be said of SQLite's file before it is opened, which would make it; None: it can be opened."""
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return None
    if url.database in (None, "", ":memory:"):
        return Reach(
            "", "this database is in memory, and forgotten after each request",
            "Name a file: sqlite:////var/lib/users.db",
        )  # fmt: skip
    path = Path(str(url.database))
    if path.exists():
        return None
    if not path.parent.is_dir():
        return Reach(
            "", f"there is no folder {path.parent}", "Make it, or correct the path; a whole one has four slashes."
        )
    if not os.access(path.parent, os.W_OK):
        return Reach("", f"in the folder {path.parent} this user can make no file", "Give it to the service's user.")
    return Reach(f"the first event makes {path}")
