"""What came of the demo's events: a live table, lines for a pipe, and the sums at the end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from marzhook.cli import output

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult

    from marzhook.cli.inbox import Received
    from marzhook.receiver import ReceivedEvent


@dataclass(slots=True)
class Cell:
    """One event at one receiver."""

    refused: int = 0
    accepted: int = 0
    latency: float = 0.0
    """Seconds from the event to its first acceptance."""

    @property
    def words(self) -> str:
        refused = f" after {self.refused} x 503" if self.refused else ""
        if self.accepted:
            return f"{output.duration(self.latency)}{refused}"
        return f"503 x {self.refused}, waits" if self.refused else "…"


@dataclass(slots=True)
class Row:
    """One event."""

    event_id: int
    action: str
    username: str
    enqueued_at: float
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sums:
    """One receiver's whole. Latencies in seconds, None where nothing came."""

    name: str
    expected: int
    arrived: int
    retries: int
    """Requests that were refused, and made once more."""
    twice: int
    out_of_order: int
    median: float | None
    p99: float | None

    @property
    def well(self) -> bool:
        return self.arrived == self.expected and self.twice == 0 and self.out_of_order == 0


class Scoreboard:
    """Fed by the receivers' threads; read by the one that shows it."""

    def __init__(self, names: Sequence[str], say: Callable[[str], None] | None = None) -> None:
        self.names = tuple(names)
        self.now_happening = ""
        self._say = say
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._order: dict[tuple[str, str], list[int]] = {}
        self._started: float | None = None

    def receiver(self, name: str) -> Callable[[Received], None]:
        """What the receiver `name` tells of each request."""

        def received(request: Received) -> None:
            for event in request.events:
                self._note(name, request, event)

        return received

    def happening(self, words: str) -> None:
        self.now_happening = words
        if self._say:
            self._say(f"-- {words}")

    def complete(self, ids: set[str]) -> bool:
        """Whether every one of these messages was accepted by every receiver."""
        with self._lock:
            return all(
                (row := self._rows.get(id_)) is not None
                and all(c in row.cells and row.cells[c].accepted for c in self.names)
                for id_ in ids
            )

    def sums(self, ids: set[str]) -> list[Sums]:
        """What each receiver got, of the events that there are."""
        with self._lock:
            return [self._sums(name, ids) for name in self.names]

    def _sums(self, name: str, ids: set[str]) -> Sums:
        cells = [cell for row in self._rows.values() if (cell := row.cells.get(name))]
        arrived = sum(1 for id_ in ids if id_ in self._rows and self._arrived(id_, name))
        times = sorted(cell.latency for cell in cells if cell.accepted)
        wrong = sum(
            earlier > later
            for (receiver, _), order in self._order.items()
            if receiver == name
            for earlier, later in pairwise(order)
        )
        return Sums(
            name, len(ids), arrived, sum(cell.refused for cell in cells), sum(cell.accepted > 1 for cell in cells), wrong,
            _quantile(times, 0.5), _quantile(times, 0.99),
        )  # fmt: skip

    def _arrived(self, id_: str, name: str) -> bool:
        cell = self._rows[id_].cells.get(name)
        return cell is not None and cell.accepted > 0

    def _note(self, name: str, request: Received, event: ReceivedEvent) -> None:
        id_, at = request.message_id or "", event.enqueued_at or request.at
        with self._lock:
            if id_ not in self._rows:
                number = id_.rpartition("_")[2]
                self._rows[id_] = Row(int(number) if number.isdigit() else 0, event.action, event.username, at)
                self._started = min(self._started or at, at)
            row = self._rows[id_]
            cell = row.cells.setdefault(name, Cell())
            if request.status >= 300:
                cell.refused += 1
            else:
                if not cell.accepted:
                    cell.latency = request.at - at
                cell.accepted += 1
                self._order.setdefault((name, event.username), []).append(row.event_id)
            since = request.at - (self._started or at)
        if self._say:
            what = "accepted" if request.status < 300 else f"answered {request.status}"
            took = output.duration(request.at - at)
            self._say(
                f"{since:6.2f} s  {event.action:<21} {event.username:<8} {name:<7} {what}, tries {event.tries}, {took}"
            )

    def __rich_console__(self, console: Any, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rows = sorted(self._rows.values(), key=lambda row: row.event_id)
            # As many as the window has room for, the newest.
            shown = rows[-max(5, (options.height or console.size.height) - 7) :]
            # 78 characters in all: where a terminal of 80 has to wrap, half of the rows are out of sight.
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
            table.add_column("at", justify="right", width=6, no_wrap=True)
            table.add_column("event", width=21, no_wrap=True)
            table.add_column("user", width=7, no_wrap=True)
            for name in self.names:
                table.add_column(name, width=20, no_wrap=True)
            for row in shown:
                cells = [row.cells.get(name, Cell()) for name in self.names]
                table.add_row(
                    f"{row.enqueued_at - (self._started or 0):.1f} s", row.action, row.username,
                    *(Text(c.words, style="green" if c.accepted else "yellow" if c.refused else "dim") for c in cells),
                )  # fmt: skip
            count = len(rows)
        yield table
        yield Text(f"\n{output.counted(count, 'event')}. Now: {self.now_happening}", style="bold")


def _quantile(times: Sequence[float], share: float) -> float | None:
    return times[max(0, math.ceil(share * len(times)) - 1)] if times else None
