"""`marzhook source`: panels that are followed over their API."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from marzhook.cli import output
from marzhook.cli.open import Opened, opened
from marzhook.errors import SettingError

if TYPE_CHECKING:
    from marzhook.sources.marzban_api import PanelApi
    from marzhook.sources.snapshot import Shown, Snapshots
    from marzhook.store.database import Transaction
    from marzhook.store.sources import Source

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Follow panels over their API.")

KINDS = ("marzban",)

SourceId = Annotated[int, typer.Argument(metavar="ID", help="As `marzhook source list` shows it.")]


@app.callback()
def _group() -> None:
    """Follow panels over their API."""


@app.command()
def add(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="marzban")],
    url: Annotated[str, typer.Argument(help="The panel's address, as https://panel.example:8000.")],
    username: Annotated[str | None, typer.Option(help="A sudo admin of the panel; asked for otherwise.")] = None,
    token: Annotated[bool, typer.Option("--token", help="Log in with an access token instead.")] = False,
) -> None:
    """Take a first snapshot of a panel's users, of which nothing is told, and follow the panel from then on; or give a panel
    that is followed already a new login.

    The password is asked for, or taken from PANEL_PASSWORD; the token from PANEL_TOKEN. Both are kept encrypted.
    """
    if kind not in KINDS:
        raise SettingError(f"a panel of the kind {ascii(kind)[:60]} cannot be followed; only marzban can", code="usage")
    from marzhook.sources.marzban_api import PanelApi
    from marzhook.store import sources, stats

    with opened() as o:
        address = url.rstrip("/")
        with o.database.read() as conn:
            known = sources.followed(conn, address)
            before = stats.last_event(conn)
        login = _login(username, token=token)
        api = PanelApi(
            address, login.get("username", ""), login.get("password", ""), token=login.get("token", ""),
            ca_file=o.settings.ca_file,
        )  # fmt: skip
        if not api.sees_all():
            output.note(
                "Warning: this is not a sudo admin of the panel, which shows him his own users only: those of other admins are"
                " not followed, and nothing is told of them. To follow all, type the command again with a sudo admin's login."
            )
        if known is not None:
            api.page(0)
            o.database.transact(lambda tx: sources.log_in(tx, known.id, **login), repeatable=True)
            output.line(
                f"Source {known.id} is followed already, and from now on with this login; what has changed since its last"
                " look is told."
            )
            return
        snapshots = _snapshots(o)
        users = _snapshot(api)
        source_id = o.database.transact(
            lambda tx: sources.create(tx, kind=kind, url=address, now=o.clock.now(), **login)
        )
        snapshots.begin(source_id, _anew(o, api, users, before))
        o.database.transact(lambda tx: sources.note(tx, source_id, snapshot_at=o.clock.now()), repeatable=True)
    output.line(
        f"Source {source_id} is followed from now on: {output.counted(len(users), 'user')} in its first snapshot."
    )


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the panels that are followed, when all their users were last seen, and what is wrong."""
    from marzhook.endpoint import masked_url
    from marzhook.store import sources

    with opened() as o, o.database.read() as conn:
        found, counts = sources.all_sources(conn), sources.counts(conn)
    if as_json:
        output.json_document(
            [
                {
                    "id": one.id, "kind": one.kind, "url": masked_url(one.url), "username": one.username,
                    "state": state_of(one), "users": counts.get(one.id, 0), "created_at": output.iso(one.created_at),
                    "snapshot_at": output.iso(one.snapshot_at), "passed_at": output.iso(one.passed_at),
                    "failing_since": output.iso(one.failing_since), "error": one.error,
                }
                for one in found
            ]
        )  # fmt: skip
        return
    if not found:
        output.line("No panel is followed; `marzhook source add marzban URL` adds one.")
        return
    output.table(
        ("id", "panel", "state", "users", "all seen", "what is wrong"),
        [
            (
                one.id, f"{one.kind} {masked_url(one.url)}", state_of(one), counts.get(one.id, 0),
                output.brief_time(one.passed_at) if one.passed_at else None, one.error,
            )
            for one in found
        ],
        right=("id", "users"),
        fold=("panel", "what is wrong"),
    )  # fmt: skip


@app.command()
def pause(source_id: SourceId) -> None:
    """Ask the panel nothing until `resume`; what happens meanwhile is told then."""
    _set_paused(source_id, paused=True)
    output.line(f"Source {source_id} is paused.")


@app.command()
def resume(source_id: SourceId) -> None:
    """Follow a paused panel again; what happened meanwhile is told now."""
    _set_paused(source_id, paused=False)
    output.line(f"Source {source_id} is followed again.")


@app.command()
def remove(source_id: SourceId) -> None:
    """Stop following a panel, and forget its users and how to log in there."""
    from marzhook.store import sources

    with opened() as o:
        o.database.transact(lambda tx: sources.remove(tx, source_id))
    output.line(f"Source {source_id} is removed.")


def _set_paused(source_id: int, *, paused: bool) -> None:
    from marzhook.store import sources

    def work(tx: Transaction) -> None:
        sources.get(tx.conn, source_id)
        sources.note(tx, source_id, paused=paused)

    with opened() as o:
        o.database.transact(work, repeatable=True)


def state_of(source: Source) -> str:
    """In one word."""
    if source.snapshot_at is None:
        return "unfinished"  # whoever added it was interrupted; adding it again makes it whole
    if source.paused:
        return "paused"
    return "failing" if source.error is not None else "followed"


def _login(username: str | None, *, token: bool) -> dict[str, str]:
    if token:
        return {"token": os.environ.get("PANEL_TOKEN") or typer.prompt("Access token", hide_input=True, err=True)}
    name = username or typer.prompt("The panel's sudo admin", err=True)
    password = os.environ.get("PANEL_PASSWORD") or typer.prompt("Password", hide_input=True, err=True)
    return {"username": name, "password": password}


def _snapshots(o: Opened) -> Snapshots:
    from marzhook.sources.snapshot import Snapshots
    from marzhook.user import Thresholds

    settings = o.settings
    return Snapshots(
        o.database, o.outbox, o.clock, published_actions=settings.published_actions,
        thresholds=Thresholds(settings.usage_percents, settings.days_left), detail=settings.webhook_detail,
    )  # fmt: skip


def _snapshot(api: PanelApi) -> dict[str, Shown]:
    """All users, in memory: what an interruption leaves is nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from marzhook.sources.snapshot import shown

    columns = (TextColumn("First snapshot"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    users: dict[str, Shown] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("snapshot", total=None)
        for page, total in api.users():
            users |= shown(page)
            progress.update(task, advance=len(page), total=total)
    return users


def _anew(o: Opened, api: PanelApi, users: dict[str, Shown], before: int) -> dict[str, Shown]:
    """The snapshot with those users seen anew of whom the panel's webhook told something while it was taken."""
    from marzhook.sources.snapshot import shown
    from marzhook.store import stats

    with o.database.read() as conn:
        told = stats.users_since(conn, before)
    for username in told:
        user = api.user(username)
        users.pop(username, None)
        users |= shown([user] if user is not None and user["username"] == username else [])
    return users
