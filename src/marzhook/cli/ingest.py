"""`marzhook ingest`: what came in from panels."""

from __future__ import annotations

from typing import Annotated

import typer

from marzhook.cli import output
from marzhook.cli.open import opened

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What came in from panels.")


@app.callback()
def _group() -> None:
    """What came in from panels."""


@app.command()
def rejected(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest.")] = 50,
    body: Annotated[bool, typer.Option("--body", help="Show what was sent, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what panels sent and could not be taken, the newest first."""
    from marzhook.store import rejected

    with opened() as o, o.database.read() as conn:
        found = rejected.newest(conn, limit=limit + 1)
    more = bool(found[limit:])
    del found[limit:]
    if as_json:
        output.json_document(
            [
                {
                    "id": one.id, "at": one.at.isoformat(), "source": one.source, "code": one.code, "reason": one.reason,
                    "body": one.body, "length": one.length,
                }
                for one in found
            ]
        )  # fmt: skip
        return
    if not found:
        output.line("Nothing was rejected.")
        return
    columns = ("id", "time", "from", "reason", *(["body"] if body else []))
    rows = [(one.id, output.brief_time(one.at), one.source, one.reason, *([one.body] if body else [])) for one in found]
    output.table(columns, rows, right=("id",), fold=("reason", "body"))
    if more:
        output.note(f"The newest {limit} are shown; --limit shows more.")
