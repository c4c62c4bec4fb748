"""`marzhook db`: what operators do with the database itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marzhook.cli import output
from marzhook.cli.open import nowhere
from marzhook.errors import DatabaseError, SettingError

if TYPE_CHECKING:
    from rich.progress import Progress

    from marzhook.settings import Settings
    from marzhook.store.database import Database

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Upgrade, check and copy the database.")


@app.callback()
def _group() -> None:
    """Upgrade, check and copy the database."""


@app.command()
def migrate(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Bring the database to this version's schema. The service does the same when it starts; processes of the version
    before may go on running meanwhile."""
    with _database() as (_, database):
        before = database.revision()
        database.upgrade()
        after = database.revision()
    if as_json:
        output.json_document({"database": database.name, "from": before, "to": after})
    elif before == after:
        output.line(f"{database.name} has this version's schema already: {after}.")
    elif before is None:
        output.line(f"{database.name} was empty, and now has the schema {after}.")
    else:
        output.line(f"{database.name}: the schema was {before}, and is now {after}.")


@app.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look whether all that is kept is whole and belongs together; says how to mend what is not. Changes nothing.

    Reads everything once, also while the service runs. On a large database that takes minutes.
    """
    from marzhook.store import integrity

    with _database() as (_, database):
        found = list(integrity.findings(database))
        revision, version = database.revision(), database.version()
        rows = {}
        # Where it is damaged, that was found above.
        with suppress(DatabaseError):
            rows = integrity.counts(database) if revision is not None else {}
        holder = database.holder()
    if as_json:
        output.json_document(
            {
                "ok": not found,
                "database": database.name,
                database.kind.lower(): version,
                "schema": revision,
                "service": holder,
                "rows": rows,
                "problems": [{"code": one.code, "problem": one.problem, "mend": one.mend} for one in found],
            }
        )
    else:
        output.line(f"{database.name} ({database.kind} {version}), schema {revision or 'none yet'}")
        if rows:
            output.line(", ".join(f"{number:,} {name}" for name, number in rows.items()))
        for one in found:
            output.line(f"BAD  {one.problem}\n     {one.mend}")
        output.line(f"\n{output.counted(len(found), 'thing')} to mend." if found else "All is well.")
    if found:
        raise typer.Exit(1)


@app.command()
def copy(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The SQLite database, with its key file beside it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy a SQLite database into the PostgreSQL one of MARZHOOK_DATABASE_URL, which must be empty, and compare the two.

    The service must be stopped. What was interrupted goes on when it is called again. Afterwards the file is not used any
    more: start the service on PostgreSQL.
    """
    from marzhook import settings as marzhook_settings
    from marzhook.store.copying import Copy
    from marzhook.store.database import Database

    settings = marzhook_settings.load()
    if not source.is_file():
        raise DatabaseError(nowhere(str(source)))
    with ExitStack() as stack:
        target = Database.open(
            settings.database_url, secret_keys=settings.secret_keys, direct_url=settings.worker_database_url
        )
        stack.callback(target.close)
        if target.kind != "PostgreSQL":
            raise SettingError(
                "set MARZHOOK_DATABASE_URL to the PostgreSQL database that is to be filled", code="usage"
            )
        old = Database.open(f"sqlite:///{source}", secret_keys=settings.secret_keys)
        stack.callback(old.close)
        old.claim()
        progress = stack.enter_context(_progress())
        task = progress.add_task("copy", total=None)
        work = Copy(old, target, lambda rows: progress.advance(task, rows))
        rows: dict[str, int] = {}
        if not (already := work.complete()):
            progress.update(task, total=work.begin())
            rows = work.run()
    if as_json:
        output.json_document({"source": old.name, "target": target.name, "rows": rows, "already": already})
    elif already:
        output.line(f"{old.name} is in {target.name} already: nothing was copied. Start the service there.")
    else:
        output.line(", ".join(f"{number:,} {name}" for name, number in rows.items() if number) or "no rows")
        output.line(f"{old.name} is in {target.name}, compared row by row. Start the service there.")


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Copying and comparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def _database() -> Iterator[tuple[Settings, Database]]:
    """The settings and their database, as it is. Raises DatabaseError where there is none."""
    from marzhook import settings as marzhook_settings
    from marzhook.store.database import Database

    settings = marzhook_settings.load()
    database = Database.open(
        settings.database_url, secret_keys=settings.secret_keys, direct_url=settings.worker_database_url
    )
    try:
        # A server's database somebody has made, to be used; a file that is not there is a wrong folder.
        if database.kind == "SQLite" and not database.exists():
            raise DatabaseError(nowhere(database.name))
        yield settings, database
    finally:
        database.close()
