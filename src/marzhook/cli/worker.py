"""`marzhook worker`: one of several processes that send from one PostgreSQL database; `marzhook workers`: which there are."""

from __future__ import annotations

from typing import Annotated

import typer

from marzhook import settings as settings_module
from marzhook.cli import output
from marzhook.cli.open import opened
from marzhook.cli.run import tune_interpreter
from marzhook.runtime import Runtime, hold_signals, wait_for_signal
from marzhook.telemetry import configure_logging


def worker() -> None:
    """Send a fair share of what is owed, and look after users and old rows where nobody else does, until Ctrl-C or SIGTERM.

    Start as many as you want, on as many machines as you want, with the same settings. Each takes shards of the users, and
    gives some up when another one joins.
    """
    settings = settings_module.load()
    configure_logging(settings.log_format, settings.log_level)
    hold_signals()
    tune_interpreter()
    runtime = Runtime(settings, serves=False)
    try:
        runtime.start()
        print(f"This worker delivers from {runtime.services.database.name}. Ctrl-C ends it.", flush=True)
        wait_for_signal()
    finally:
        runtime.stop()


def workers(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the processes that deliver from the database, the eldest first."""
    with opened() as o:
        found = o.database.workers()
    if as_json:
        output.json_document(
            [
                {"name": one.name, "address": one.address, "since": output.iso(one.since), "shards": list(one.shards)}
                for one in found
            ]
        )
        return
    if not found:
        output.line("Nobody delivers just now; start `marzhook run`, or `marzhook worker` on PostgreSQL.")
        return
    rows = [
        (one.name, one.address, output.brief_time(one.since) if one.since else "", len(one.shards)) for one in found
    ]
    output.table(("worker", "address", "since", "shards"), rows, right=("shards",), fold=("worker",))
