"""What people read: tables and lines that fit a terminal, stay whole in a pipe, and never carry control characters.

In a terminal of any width long cells fold; in a pipe nothing is folded or coloured, so `grep` and `awk` see whole lines.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_WIDTH = 100_000
"""Columns of a line that nobody folds."""


def console(file: IO[str] | None = None) -> Console:
    """A console for data: what is printed is not read as markup, and `:new:` is not made a picture."""
    from rich.console import Console

    out = file or sys.stdout
    width = None if out.isatty() else PIPE_WIDTH
    return Console(file=out, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def json_document(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


def line(text: str) -> None:
    """A line of text on stdout, without control characters; whole, also where several threads print."""
    sys.stdout.write(fitting(clean(text), sys.stdout) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for people on stderr: it stays out of what is piped on."""
    print(fitting(clean(text), sys.stderr), file=sys.stderr, flush=True)


def fitting(text: str, file: IO[str]) -> str:
    """In a terminal each line is broken between words, and goes on under its own beginning; commands in backticks and what
    is one word stay whole, to be copied. Elsewhere nothing is broken."""
    if not file.isatty() or len(text) <= 40:
        return text
    width = shutil.get_terminal_size().columns
    glued = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), text)
    return "\n".join(_broken(one, width) for one in glued.split("\n")).replace("\0", " ")


def _broken(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    under = " " * (len(text) - len(text.lstrip()))
    return textwrap.fill(text, width, subsequent_indent=under, break_long_words=False, break_on_hyphens=False)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), fold: Sequence[str] = ()
) -> None:
    """Columns with headings. Those in `right` are numbers; those in `fold` give way where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, show_edge=False, pad_edge=False, header_style="bold underline")
    for name in columns:
        shown.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name not in fold)
    for row in rows:
        shown.add_row(*(Text(cell(value)) for value in row))
    printed(shown)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """`name  value` lines."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, show_header=False, show_edge=False, pad_edge=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs:
        shown.add_row(Text(name, style="dim"), Text(cell(value)))
    printed(shown)


def printed(renderable: RenderableType) -> None:
    """Print without the spaces that pad the last column to the console's width."""
    if sys.stdout.isatty():
        console().print(renderable)
        return
    text = io.StringIO()
    console(text).print(renderable)
    for one in text.getvalue().splitlines():
        print(one.rstrip())


def cell(value: object) -> str:
    """A value as a table shows it; nothing known is a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return local_time(value)
    return clean(str(value))


def clean(text: str) -> str:
    """The text with control characters escaped: what a receiver answered must not be able to drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or _harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _harmless(c: str) -> bool:
    return c.isprintable() or c in "\u200c\u200d\u00a0\u202f"  # joiners that Persian text needs, and blanks


def local_time(at: datetime, *, milliseconds: bool = False) -> str:
    """`2026-11-23 13:15:19` in this machine's time zone."""
    return at.astimezone().isoformat(" ", "milliseconds" if milliseconds else "seconds")[: 23 if milliseconds else 19]


def brief_time(at: datetime) -> str:
    """For a column of a terminal's table: the time of today, the day of what is older. In a pipe the whole time."""
    if not sys.stdout.isatty():
        return local_time(at)
    here, now = at.astimezone(), datetime.now().astimezone()
    if here.date() == now.date():
        return here.strftime("%H:%M:%S")
    return here.strftime("%m-%d %H:%M" if here.year == now.year else "%Y-%m-%d")


def iso(at: datetime | None) -> str | None:
    """As JSON has a time: ISO 8601, UTC."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def size(count: int | None) -> str:
    """Bytes in the unit that suits them."""
    if count is None:
        return "unlimited"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """`3 ms`, `1.24 s`, `5 min`, `3 h`, `2 days`."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 event`, `2 events`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def command_line_of(called: str) -> str:
    """How this program is called from here, to be copied."""
    if called.endswith("__main__.py"):
        return f"{sys.executable} -m marzhook"
    return called if called.startswith((".", "/")) else "marzhook"
