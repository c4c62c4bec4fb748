"""Plots as SVG, written by hand: lines over axes with round numbers, nothing to install."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 46, 56
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#475569")

Points = Sequence[tuple[float, float]]


def lines(title: str, x_name: str, y_name: str, series: Mapping[str, Points], *, log_x: bool = False) -> str:
    """A line for each series; y begins at 0, x at 0 too unless it is logarithmic (then all x are above 0)."""
    xs = [x for points in series.values() for x, _ in points] or [1.0]
    ys = [y for points in series.values() for _, y in points] or [1.0]
    y_ticks = _ticks(max(ys))
    x_ticks = _decades(min(xs), max(xs)) if log_x else _ticks(max(xs))
    low, high = x_ticks[0], x_ticks[-1]

    def across(x: float) -> float:
        share = math.log(x / low) / math.log(high / low) if log_x else (x - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for tick in y_ticks:
        parts.append(_line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "#e5e7eb"))
        parts.append(_text(LEFT - 8, up(tick) + 4, _short(tick), "end"))
    for tick in x_ticks:
        parts.append(_line(across(tick), HEIGHT - BOTTOM, across(tick), HEIGHT - BOTTOM + 5, "#6b7280"))
        parts.append(_text(across(tick), HEIGHT - BOTTOM + 19, _short(tick), "middle"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#6b7280"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_name, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(y_name)}</text>'
    )
    at = float(LEFT)
    for colour, (name, points) in zip(COLOURS * (len(series) // len(COLOURS) + 1), series.items(), strict=False):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<rect x="{at:.0f}" y="28" width="14" height="4" fill="{colour}"/>')
        parts.append(_text(at + 20, 34, name, "start"))
        at += 36 + 6.8 * len(name)
    return "\n".join([*parts, "</svg>"]) + "\n"


def rates(bins: Sequence[tuple[float, float]], begun: float, *, width: float = 0.1, step: float = 0.5) -> Points:
    """(seconds since `begun`, arrivals a second) from a sink's bins, over `step` seconds each."""
    sums: dict[int, float] = {}
    for at, count in bins:
        slot = int((at + width / 2 - begun) // step)
        sums[slot] = sums.get(slot, 0) + count
    if not sums:
        return []
    # Where nothing came, the line is to fall to 0.
    return [((slot + 0.5) * step, sums.get(slot, 0) / step) for slot in range(max(0, min(sums)), max(sums) + 1)]


def _ticks(largest: float) -> list[float]:
    largest = largest if largest > 0 else 1.0
    rough = largest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def _decades(smallest: float, largest: float) -> list[float]:
    low, high = math.floor(math.log10(smallest)), math.ceil(math.log10(largest))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _short(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
