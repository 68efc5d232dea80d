"""What plots are made of: axes with round numbers, legends, colours for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 16, 48
_TICKS = 6
_NARROW = 8  # a logarithmic axis whose ends are closer by ratio gets evenly spaced numbers
_LIGHT = ("#2563a8", "#c2571a", "#2f8f4e", "#8a3fa0", "#94761f", "#b03050", "#2f7f8b", "#666666")
_DARK = ("#6fadf0", "#f28f52", "#66c685", "#c792e0", "#d6b45c", "#f0809c", "#63c4d1", "#adadad")
_LEGEND_LINE, _LEGEND_GAP, _CHARACTER = 18, 34, 7.2


def _colors(colors: Sequence[str]) -> str:
    return " ".join(f".plot .c{i} {{ color: {color} }}" for i, color in enumerate(colors))


STYLE = f"""
.plot {{ font: 12px system-ui, sans-serif; color: #222; max-width: 100%; height: auto;
         display: block }}
.plot text {{ fill: currentColor }}
.plot .paper {{ fill: #fff }} .plot .grid {{ stroke: #e4e4e4 }}
.plot .line {{ stroke: currentColor; stroke-width: 1.5; fill: none }}
.plot .mark {{ fill: currentColor }}
.plot .again.line {{ stroke-dasharray: 5 3 }}
.plot .again.mark {{ fill-opacity: .25; stroke: currentColor }}
.plot .cell {{ fill: #1c5aa0 }} .plot text.on {{ fill: #fff }}
{_colors(_LIGHT)}
@media (prefers-color-scheme: dark) {{
.plot {{ color: #ddd }} .plot .paper {{ fill: #16181a }} .plot .grid {{ stroke: #34383c }}
.plot .cell {{ fill: #3d86d8 }}
{_colors(_DARK)}
}}
"""


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
        if self.log and self.high / self.low > _NARROW:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first < _TICKS else (1,)
            every = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        else:
            step = round_step((self.high - self.low) / _TICKS)
            begin = math.ceil(self.low / step - 1e-9)
            every = [i * step for i in range(begin, begin + 3 * _TICKS)]
        return [x for x in every if self.low * 0.999999 <= x <= self.high * 1.000001 or x == 0.0]


def round_step(width: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is not below `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= width * 0.999)


def spread(values: Sequence[float], log: bool, share: float = 0.08) -> tuple[float, float]:
    """Ends of an axis with some room about the values, a `share` of their range if not `log`."""
    low, high = min(values), max(values)
    if log:
        return low / 1.4, high * 1.4
    room = share * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


def horizontal(title: str, low: float, high: float, log: bool = False) -> Axis:
    """The axis below a plot."""
    return Axis(title, low, high, LEFT, WIDTH - LEFT - RIGHT, log)


def vertical(title: str, low: float, high: float, log: bool = False) -> Axis:
    """The axis at the left of a plot."""
    return Axis(title, low, high, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM), log)


def text(x: float, y: float, content: str, anchor: str = "middle", more: str = "") -> str:
    """A line of text."""
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {at} {more}>{escape(content)}</text>"


def kind(i: int) -> str:
    """Class of the i-th of what is compared: a colour, and another look when they are used up."""
    return f"c{i % len(_LIGHT)}" + (" again" if i >= len(_LIGHT) else "")


def frame(x: Axis, y: Axis) -> str:
    """Both axes with ticks, lines and titles."""
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(text(at, bottom + 16, _number(tick)))
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(LEFT - 6, at + 4, _number(tick), "end"))
    parts.append(text((LEFT + right) / 2, HEIGHT - 8, x.title))
    middle = (TOP + bottom) / 2
    parts.append(text(14, middle, y.title, more=f'transform="rotate(-90 14 {middle:.0f})"'))
    return "".join(parts)


def _number(tick: float) -> str:
    return f"{tick:.6g}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


def with_legend(body: str, names: Sequence[str], label: str) -> str:
    """A plot below the names of what is compared, in lines that are full."""
    x, y, parts = float(LEFT), _LEGEND_LINE - 4, []
    for i, name in enumerate(names):
        width = _LEGEND_GAP + _CHARACTER * len(name)
        if x > LEFT and x + width > WIDTH:
            x, y = float(LEFT), y + _LEGEND_LINE
        parts.append(f'<circle class="mark {kind(i)}" r="4.5" cx="{x + 5:.1f}" cy="{y - 4}"/>')
        parts.append(text(x + 15, y, name, "start"))
        x += width
    moved = f'<g transform="translate(0 {y + 4})">{body}</g>'
    return picture("".join(parts) + moved, WIDTH, HEIGHT + y + 4, label)


def picture(body: str, width: float, height: float, label: str) -> str:
    """A whole plot, for a page that has STYLE."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg class="plot" {size} role="img" aria-label="{escape(label)}">{body}</svg>'


def as_file(plot: str) -> str:
    """A plot that needs no page: with its style, and paper under it."""
    head, _, body = plot.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return f"{head}><style>{STYLE}</style>{paper}{body}\n"
