"""`marzhook import`: users of a panel become the registry's."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marzhook.cli import output
from marzhook.cli.open import Opened, opened
from marzhook.errors import SettingError
from marzhook.event import JSON

if TYPE_CHECKING:
    from marzhook.sources.import_users import Found

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Bring a panel's users into the built-in registry.")

SHOWN = 50
"""Users that a list on the terminal names."""
SECRET = frozenset({"proxies", "links", "subscription_url"})
"""Fields of which only is said that they differ."""


@app.callback()
def _group() -> None:
    """Bring a panel's users into the built-in registry."""


@app.command()
def marzban(
    source: Annotated[
        str, typer.Argument(metavar="URL|FILE", help="The panel's address, or its SQLite file (db.sqlite3).")
    ],
    username: Annotated[str | None, typer.Option(help="A sudo admin of the panel; asked for otherwise.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Make users who are here already what they are in the panel.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what differs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take over a Marzban panel's users. Those who are here already stay as they are, unless --update says otherwise.

    No event tells of it. The same again changes nothing. The password is asked for, or taken from PANEL_PASSWORD.
    """
    from marzhook.sources.import_users import UserImport
    from marzhook.user import Thresholds

    with opened() as o:
        work = UserImport(
            o.database, o.clock, Thresholds(o.settings.usage_percents, o.settings.days_left)
        )  # fmt: skip
        found: list[Found] = []
        for page in _with_progress(_pages(source, username, o)):
            found += work.compare(page) if dry_run else work.take(page, update=update)
    if as_json:
        output.json_document(_document(found, dry_run=dry_run, update=update))
    else:
        _print(found, dry_run=dry_run, update=update)


def _pages(source: str, username: str | None, o: Opened) -> Iterator[tuple[list[dict[str, JSON]], int]]:
    if "://" not in source:
        from marzhook.sources.marzban_file import users_of

        if not Path(source).is_file():
            raise SettingError(f"there is no file {source}; name the panel's db.sqlite3, or its address", code="usage")
        return users_of(Path(source))
    from marzhook.sources.marzban_api import PanelApi

    name = username or typer.prompt("The panel's sudo admin", err=True)
    password = os.environ.get("PANEL_PASSWORD") or typer.prompt("Password", hide_input=True, err=True)
    return PanelApi(source, name, password, ca_file=o.settings.ca_file).users()


def _with_progress(pages: Iterator[tuple[list[dict[str, JSON]], int]]) -> Iterator[list[dict[str, JSON]]]:
    """Each page is a transaction: what an interruption leaves, the same command takes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("import", total=None)
        for page, total in pages:
            yield page
            progress.update(task, advance=len(page), total=total)


def _document(found: list[Found], *, dry_run: bool, update: bool) -> dict[str, Any]:
    counts = Counter(one.outcome for one in found)
    return {
        "dry_run": dry_run,
        "update": update,
        "new": counts["new"],
        "different": counts["different"],
        "same": counts["same"],
        "invalid": [{"username": one.username, "reason": one.reason} for one in found if one.outcome == "invalid"],
        "differences": [
            {"username": one.username, **{name: _pair(name, pair) for name, pair in one.differences.items()}}
            for one in found
            if one.outcome == "different"
        ],
        "unknown_admins": sorted({one.unknown_admin for one in found if one.unknown_admin is not None}),
    }


def _print(found: list[Found], *, dry_run: bool, update: bool) -> None:
    counts = Counter(one.outcome for one in found)
    told = [one for one in found if one.outcome in ("different", "invalid") or (dry_run and one.outcome == "new")]
    if told:
        output.table(
            ("user", "", "what differs: here -> in the panel"),
            [(one.username, one.outcome, one.reason or _words(one)) for one in told[:SHOWN]],
            fold=("what differs: here -> in the panel",),
        )
        if len(told) > SHOWN:
            output.line(f"… and {len(told) - SHOWN} more; --json shows all.")
        output.line("")
    verb = "would be" if dry_run else "were"
    output.line(f"{output.counted(counts['new'], 'user')} {verb} added, {counts['same']} are the same.")
    if counts["different"] and update:
        output.line(f"{output.counted(counts['different'], 'user')} {verb} updated.")
    elif counts["different"]:
        who = output.counted(counts["different"], "user who differs", "users who differ")
        output.line(f"Left as it is here: {who}; --update takes the panel's values.")
    if counts["invalid"]:
        output.line(f"{output.counted(counts['invalid'], 'user')} cannot be taken over, for the reasons above.")
    unknown = sorted({one.unknown_admin for one in found if one.unknown_admin is not None})
    if unknown:
        output.line(
            f"There is no admin here named {', '.join(unknown)}: their users have no owner. Make these admins"
            " (POST /api/admin) before the import, or run it again with --update."
        )


def _words(one: Found) -> str:
    return "; ".join(f"{name}: {' -> '.join(map(str, _pair(name, pair)))}" for name, pair in one.differences.items())


def _pair(name: str, pair: tuple[Any, Any]) -> list[JSON]:
    return ["…", "…"] if name in SECRET else [_plain(value) for value in pair]


def _plain(value: Any) -> JSON:
    if value is None or isinstance(value, str | int | float | bool | dict):
        return value
    for attribute in ("isoformat", "shown"):
        if hasattr(value, attribute) and not hasattr(value, "username"):
            return getattr(value, attribute)()
    return getattr(value, "username", str(value))
