"""`marzhook replay`: owe many deliveries again, in chunks, so that publishing never waits long."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from marzhook.cli import output
from marzhook.cli.deliveries import warn_when_nobody_sends
from marzhook.cli.open import Opened, choice_options, opened, time_option
from marzhook.delivery import CANCELLED, DEAD, SETTLED_STATES
from marzhook.event import check_action

if TYPE_CHECKING:
    from marzhook.store.outbox import DeliveryFilter

CHUNK = 2000
"""Deliveries moved in one transaction."""


def replay(
    endpoint: Annotated[int | None, typer.Option(min=1, max=2**62, help="To this endpoint only.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Events from this time on: 2026-11-23T13:15 (local), …Z (UTC).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Events before this time.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Such as user_limited; repeatable.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="dead, cancelled, delivered; repeatable. [default: dead, cancelled]")
    ] = None,
    username: Annotated[str | None, typer.Option(help="Of this user only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Owe deliveries again: by default all that are dead or cancelled. They start anew, with their first try."""
    from marzhook.store import endpoints, history
    from marzhook.store.outbox import DeliveryFilter

    which = DeliveryFilter(
        endpoint_id=endpoint,
        states=choice_options("--state", state, SETTLED_STATES) or (DEAD, CANCELLED),
        actions=tuple(check_action(name) for name in action) if action else None,
        username=username,
        since=time_option("--since", since),
        until=time_option("--until", until),
    )
    with opened() as o:
        with o.database.read() as conn:
            if endpoint is not None:
                endpoints.get(conn, endpoint)
            matched = history.count_settled(conn, which)
        if dry_run:
            if as_json:
                output.json_document({"matched": matched})
            else:
                output.line(f"{output.counted(matched, 'delivery', 'deliveries')} would be replayed.")
            return
        replayed = _replayed(o, which, matched)
        if as_json:
            output.json_document({"replayed": replayed})
        else:
            output.line(f"{output.counted(replayed, 'delivery', 'deliveries')} replayed.")
        if replayed:
            warn_when_nobody_sends(o.database.holder())


def _replayed(o: Opened, which: DeliveryFilter, matched: int) -> int:
    """Each chunk is committed on its own: what an interruption leaves, the same command replays."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    began = o.clock.now()
    replayed, again = 0, partial(o.outbox.replay, which=which, now=began, settled_before=began, limit=CHUNK)
    columns = (TextColumn("Replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("replay", total=matched)
        while True:
            count = o.database.transact(again)
            replayed += count
            progress.update(task, completed=replayed, total=max(matched, replayed))
            if count < CHUNK:
                return replayed
