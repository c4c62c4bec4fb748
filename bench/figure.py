"""What a measurement says: figures, the goals beside them, and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    events: int = 30_000
    """Events a measurement delivers."""
    rounds: int = 3
    quick: bool = False
    """A tenth of the work: to see that it runs, not to quote."""

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Figure:
    """One line of the table. A goal is a bound on the value; without one the line is there to compare with."""

    what: str
    value: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    each: Sequence[float] = ()
    """The rounds' values, of which `value` is the median, unless the note says otherwise."""
    note: str = ""

    @classmethod
    def of(cls, what: str, values: Sequence[float], unit: str, **more: Any) -> Figure:
        return cls(what, median(values), unit, each=tuple(values), **more)

    @property
    def met(self) -> bool | None:
        """None: there is no goal, or nothing could be measured."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    def line(self) -> str:
        value = "-" if self.value is None else _number(self.value)
        text = f"  {self.what:<62}{value:>12} {self.unit:<11}"
        if self.at_least is not None or self.at_most is not None:
            bound = f">= {_number(self.at_least)}" if self.at_least is not None else f"<= {_number(self.at_most or 0)}"
            text += f"goal {bound:<11}{'met' if self.met else 'NOT MET'}"
        return (text + (f"  ({self.note})" if self.note else "")).rstrip()

    def shown(self) -> dict[str, Any]:
        values = {
            "what": self.what, "value": self.value, "unit": self.unit, "at_least": self.at_least,
            "at_most": self.at_most, "met": self.met, "each": list(self.each), "note": self.note,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value not in (None, [], "")}


@dataclass
class Measured:
    figures: list[Figure] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)
    """SVG by name."""

    def write_plots(self, folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        written = []
        for name, svg in self.plots.items():
            path = folder / f"{name}.svg"
            path.write_text(svg)
            written.append(path)
        return written


def alternating(rounds: int, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each of them once a round, so that what else the machine does hits them alike."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(run())
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the medians: a round that something else disturbed does not count."""
    return median(ours) / median(theirs)


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 0.995 or value == 0 else f"{value:.3f}"
