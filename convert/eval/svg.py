"""Plots as inline SVG: axes with round numbers, points, bars, a grid of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLORS = ("#2563a8", "#c2571a", "#2f8f4e", "#8a3fa0", "#a8862a", "#b03050", "#3a8a96", "#666666")
WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 16, 48
_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` along `pixels` from `start` on; `log` for powers of ten."""

    title: str
    low: float
    high: float
    start: float
    pixels: float
    log: bool = False

    def at(self, x: float) -> float:
        """Pixel of a number."""
        low, high, x = (math.log10(v) if self.log else v for v in (self.low, self.high, x))
        return self.start + self.pixels * (x - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first < _TICKS else (1,)
            every = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        else:
            step = round_step((self.high - self.low) / _TICKS)
            first = math.ceil(self.low / step - 1e-9)
            every = [i * step for i in range(first, first + 3 * _TICKS)]
        return [x for x in every if self.low * 0.999999 <= x <= self.high * 1.000001 or x == 0.0]


def round_step(width: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is not below `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= width * 0.999)


def spread(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of an axis with some room about the values."""
    low, high = min(values), max(values)
    if log:
        return low / 1.4, high * 1.4
    room = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


def horizontal(title: str, low: float, high: float, log: bool = False) -> Axis:
    """The axis below a plot."""
    return Axis(title, low, high, _LEFT, WIDTH - _LEFT - _RIGHT, log)


def vertical(title: str, low: float, high: float, log: bool = False) -> Axis:
    """The axis at the left of a plot."""
    return Axis(title, low, high, HEIGHT - _BOTTOM, -(HEIGHT - _TOP - _BOTTOM), log)


def text(x: float, y: float, content: str, anchor: str = "middle", more: str = "") -> str:
    """A line of text."""
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {at} {more}>{escape(content)}</text>"


def frame(x: Axis, y: Axis) -> str:
    """Both axes with ticks, lines and titles."""
    parts = []
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(text(at, bottom + 16, f"{tick:g}"))
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(_LEFT - 6, at + 4, f"{tick:g}", "end"))
    parts.append(text((_LEFT + right) / 2, HEIGHT - 8, x.title))
    middle = (_TOP + bottom) / 2
    parts.append(text(14, middle, y.title, more=f'transform="rotate(-90 14 {middle:.0f})"'))
    return "".join(parts)


def picture(body: str, width: float = WIDTH, height: float = HEIGHT, label: str = "") -> str:
    """A whole plot."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{body}</svg>'


def points(
    names: Sequence[str], xs: Sequence[float], ys: Sequence[float], errors: Sequence[float],
    titles: tuple[str, str],
) -> str:  # fmt: skip
    """Named points with error bars; the vertical axis is logarithmic where all are above 0."""
    log = min(ys) > 0
    low, high = spread(ys, log)
    x, y = horizontal(titles[0], *spread(xs, False)), vertical(titles[1], low, high, log)
    parts = [frame(x, y)]
    for i, (name, a, b, error) in enumerate(zip(names, xs, ys, errors, strict=True)):
        color, px = COLORS[i % len(COLORS)], x.at(a)
        ends = [y.at(min(high, max(low, v))) for v in (b - error, b + error)]
        parts.append(
            f'<line stroke="{color}" x1="{px:.1f}" x2="{px:.1f}" y1="{ends[0]:.1f}" '
            f'y2="{ends[1]:.1f}"/><circle fill="{color}" r="4.5" cx="{px:.1f}" cy="{y.at(b):.1f}">'
            f"<title>{escape(name)}: {a:.3f}, {b:.4g} ± {error:.2g}</title></circle>"
        )
        anchor, dx = ("start", 9) if px < WIDTH * 0.7 else ("end", -9)
        parts.append(text(px + dx, y.at(b) + 4, name, anchor))
    return picture("".join(parts), label=f"{titles[1]} against {titles[0]}")


def histogram(
    names: Sequence[str], counts: Sequence[Sequence[float]], edges: Sequence[float],
    titles: tuple[str, str],
) -> str:  # fmt: skip
    """Outlines of shares per bin, one for each name; the vertical axis is logarithmic."""
    seen = [c for each in counts for c in each if c > 0]
    low = min(seen) / 1.4
    x = horizontal(titles[0], edges[0], edges[-1])
    y = vertical(titles[1], low, max(seen) * 1.4, log=True)
    parts = [frame(x, y)]
    for i, (name, shares) in enumerate(zip(names, counts, strict=True)):
        color = COLORS[i % len(COLORS)]
        path = [f"M{x.at(edges[0]):.1f},{y.at(low):.1f}"]
        for share, a, b in zip(shares, edges, edges[1:], strict=False):
            at = y.at(max(share, low))
            path.append(f"V{at:.1f}H{x.at(b):.1f}" if a < b else "")
        path.append(f"V{y.at(low):.1f}")
        parts.append(f'<path fill="none" stroke="{color}" stroke-width="1.5" d="{"".join(path)}"/>')
        parts.append(text(WIDTH - _RIGHT - 6, _TOP + 16 * (i + 1), name, "end", f'fill="{color}"'))
    return picture("".join(parts), label=f"{titles[1]} of {titles[0]}")


def heat_map(
    rows: Sequence[str], columns: Sequence[str], cells: dict[tuple[str, str], float]
) -> str:
    """Cells by (row, column) from white, the least, to dark, the most, on a logarithmic scale."""
    side, height, left, top = 64, 16, 60, 60
    logs = [math.log10(value) for value in cells.values() if value > 0] or [0.0]
    low, high = min(logs), max(logs)
    parts = [
        text(left + side * (i + 0.5), top - 8, name, "start",
             f'transform="rotate(-30 {left + side * (i + 0.5):.0f} {top - 8})"')
        for i, name in enumerate(columns)
    ]  # fmt: skip
    for j, row in enumerate(rows):
        parts.append(text(left - 6, top + height * (j + 0.75), row, "end"))
        for i, column in enumerate(columns):
            value = cells.get((row, column))
            if value is None:
                continue
            share = (math.log10(value) - low) / (high - low or 1.0) if value > 0 else 0.0
            lightness = 97 - 65 * share
            parts.append(
                f'<rect x="{left + side * i}" y="{top + height * j}" width="{side - 1}" '
                f'height="{height - 1}" fill="hsl(212 60% {lightness:.0f}%)">'
                f"<title>{escape(row)} {escape(column)}: {value:.4g}</title></rect>"
            )
            shade = "#fff" if lightness < 60 else "#222"
            middle = left + side * (i + 0.5)
            parts.append(text(middle, top + height * (j + 0.75), f"{100 * value:.2g} %",
                              more=f'fill="{shade}" font-size="10"'))  # fmt: skip
    width = left + side * len(columns) + 60
    return picture("".join(parts), width, top + height * len(rows) + 8, "error of every tensor")
