"""`marzhook worker`: one of several processes that send from one PostgreSQL database; `marzhook workers`: which there are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from marzhook import settings as settings_module
from marzhook.cli import output
from marzhook.cli.open import opened
from marzhook.cli.run import tune_interpreter
from marzhook.runtime import Runtime, hold_signals, wait_for_signal
from marzhook.telemetry import configure_logging

if TYPE_CHECKING:
    from marzhook.store.workers import Seen


def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests on their way at the same time, to all endpoints together.")
    ] = None,
) -> None:
    """Send a fair share of what is owed, and look after users and old rows where nobody else does, until Ctrl-C or SIGTERM.

    Start up to 32, on as many machines as you want, with the same settings. Each takes shards of the users, and gives some up
    when another one joins; more than 32 wait until one of those ends.
    """
    settings = settings_module.load()
    configure_logging(settings.log_format, settings.log_level)
    hold_signals()
    tune_interpreter()
    runtime = Runtime(settings, serves=False, concurrency=concurrency)
    try:
        runtime.start()
        print(f"This worker delivers from {runtime.services.database.name}. Ctrl-C ends it.", flush=True)
        wait_for_signal()
    finally:
        runtime.stop()


def workers(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the processes that deliver, the eldest first, and those that ended without a word within the last hour.

    rate: deliveries a second; lag: for how long what is sent next has been due, where that is longest.
    """
    from marzhook.store import workers as store
    from marzhook.store.sharing import MOST

    with opened() as o:
        found = store.seen(o.database, o.clock.now())
    if as_json:
        output.json_document(
            [asdict(one) | {"since": output.iso(one.since), "last_seen": output.iso(one.last_seen)} for one in found]
        )
        return
    if all(one.gone for one in found):
        output.line("Nobody delivers just now; start `marzhook run`, or `marzhook worker` on PostgreSQL.")
    if found:
        columns = ("host", "process", "version", "shards", "rate", "lag", "last seen")
        output.table(columns, map(_row, found), right=("process", "shards", "rate", "lag"), fold=("host",))
    if any(not (one.gone or one.shards) for one in found) and sum(not one.gone for one in found) > MOST:
        output.note(f"{MOST} processes send at once; who has no shards waits until one of them ends.")


def _row(one: Seen) -> tuple[object, ...]:
    rate = None if one.rate is None else f"{one.rate:,.0f}/s"
    lag = None if one.lag is None else output.duration(one.lag)
    seen = f"{output.brief_time(one.last_seen)}{' gone' if one.gone else ''}"
    return one.host or one.name, one.process, one.version, len(one.shards), rate, lag, seen
