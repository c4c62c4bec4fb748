"""`marzhook config`: what is set, and where."""

from __future__ import annotations

import json

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from marzhook.event import JSON
from marzhook.settings import Settings, load


def config(json_: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Show every setting, its effective value and where it came from. Secrets are never shown."""
    settings = load()
    if json_:
        print(json.dumps(_document(settings), indent=2, ensure_ascii=False))
    else:
        _print_table(settings)


def _document(settings: Settings) -> dict[str, JSON]:
    entries = [{"name": entry.name, "value": entry.value, "source": entry.source} for entry in settings.entries]
    return {"settings": entries, "unused": list(settings.unused)}


def _print_table(settings: Settings) -> None:
    console = Console(highlight=False)
    # Piped, a line is as long as it has to be: a wrapped name or value could be neither grepped nor copied.
    wide = not console.is_terminal
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Setting", no_wrap=True)
    table.add_column("Value", overflow="fold", no_wrap=wide)
    table.add_column("Source", overflow="fold", no_wrap=wide)
    for entry in settings.entries:
        style = "dim" if entry.source == "default" else ""
        table.add_row(Text(entry.name), Text(_text(entry.value)), Text(entry.source), style=style)
    if wide:
        console.width = max(80, console.measure(table, options=console.options.update(width=100_000)).maximum)
    console.print(table)
    if settings.unused:
        console.print()
        console.print(Text("In .env, not used by Marzhook: " + ", ".join(settings.unused)))


def _text(value: JSON) -> str:
    if value is None or value == []:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
