"""The plots: points with error bars, outlines of histograms, a map of cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ggq.convert.pages.svg import (
    Axis,
    frame,
    horizontal,
    kind,
    picture,
    spread,
    text,
    vertical,
    with_legend,
)

_ROOM, _ROOM_FOR_NAMES = 0.08, 0.16  # beside the outermost points, of their distance
_CELL_WIDTH, _CELL_HEIGHT = 64, 16
_MAP_LEFT, _MAP_TOP, _MAP_RIGHT = 60, 70, 60
_NO_LAYER = ""
_FAINTEST, _WHITE_TEXT_FROM = 0.04, 0.72  # opacity of the least cell; where text on it turns white


@dataclass(frozen=True)
class Point:
    """A measured point: what it is called, and `error` up and down from y."""

    x: float
    y: float
    error: float
    name: str = ""


def points(series: Mapping[str, Sequence[Point]], titles: tuple[str, str]) -> str:
    """Points in the colour of their series, joined where it has several; names stand beside them.

    The vertical axis is logarithmic where all are above 0.
    """
    every = [point for each in series.values() for point in each]
    log = min(point.y for point in every) > 0
    low, high = spread([point.y for point in every], log)
    room = _ROOM_FOR_NAMES if any(point.name for point in every) else _ROOM
    x = horizontal(titles[0], *spread([point.x for point in every], False, room))
    y = vertical(titles[1], low, high, log)
    upper = max(series, key=lambda name: _middle(series[name], log))
    parts = [frame(x, y)]
    for i, (name, each) in enumerate(series.items()):
        path = " ".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in sorted(each, key=_place))
        if len(each) > 1:
            parts.append(f'<polyline class="line {kind(i)}" points="{path}"/>')
        for point in each:
            parts.append(_point(point, x, y, name, kind(i)))
            parts.append(_beside(point, x, y, above=name == upper))
    return with_legend("".join(parts), list(series), f"{titles[1]} against {titles[0]}")


def _place(point: Point) -> float:
    return point.x


def _middle(each: Sequence[Point], log: bool) -> float:
    return sum(math.log(p.y) if log else p.y for p in each) / len(each)


def _point(point: Point, x: Axis, y: Axis, series: str, kind: str) -> str:
    px = x.at(point.x)
    ends = [
        y.at(min(y.high, max(y.low, v))) for v in (point.y - point.error, point.y + point.error)
    ]
    name = escape(f"{series} {point.name}".strip())
    return (
        f'<line class="line {kind}" x1="{px:.1f}" x2="{px:.1f}" y1="{ends[0]:.1f}" '
        f'y2="{ends[1]:.1f}"/><circle class="mark {kind}" r="4.5" cx="{px:.1f}" '
        f'cy="{y.at(point.y):.1f}">'
        f"<title>{name}: {point.x:.3f}, {point.y:.4g} ± {point.error:.2g}</title></circle>"
    )


def _beside(point: Point, x: Axis, y: Axis, above: bool) -> str:
    if not point.name:
        return ""
    dx, dy, anchor = (8, -6, "start") if above else (-8, 14, "end")
    return text(x.at(point.x) + dx, y.at(point.y) + dy, point.name, anchor)


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
    for i, shares in enumerate(counts):
        path = [f"M{x.at(edges[0]):.1f},{y.at(low):.1f}"]
        for share, end in zip(shares, edges[1:], strict=True):
            path.append(f"V{y.at(max(share, low)):.1f}H{x.at(end):.1f}")
        path.append(f"V{y.at(low):.1f}")
        parts.append(f'<path class="line {kind(i)}" d="{"".join(path)}"/>')
    return with_legend("".join(parts), names, f"{titles[1]} of {titles[0]}")


def heat_map(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], float],
    ends: tuple[float, float], show: Callable[[float], str],
) -> str:  # fmt: skip
    """Cells by (row, column), the darker the larger, on a logarithmic scale between `ends` > 0."""
    low, high = (math.log(end) for end in ends)
    parts = []
    for i, name in enumerate(columns):
        x, y = _MAP_LEFT + _CELL_WIDTH * (i + 0.4), _MAP_TOP - 8
        parts.append(text(x, y, name, "start", f'transform="rotate(-35 {x:.0f} {y})"'))
    for j, row in enumerate(rows):
        y = _MAP_TOP + _CELL_HEIGHT * j
        parts.append(text(_MAP_LEFT - 6, y + 12, row, "end"))
        for i, column in enumerate(columns):
            value = cells.get((row, column))
            if value is None:
                continue
            share = (math.log(value) - low) / (high - low or 1.0) if value > 0 else 0.0
            shade = _FAINTEST + (1 - _FAINTEST) * min(1.0, max(0.0, share))
            x = _MAP_LEFT + _CELL_WIDTH * i
            parts.append(
                f'<rect class="cell" x="{x}" y="{y}" width="{_CELL_WIDTH - 1}" '
                f'height="{_CELL_HEIGHT - 1}" fill-opacity="{shade:.2f}">'
                f"<title>{escape(row)} {escape(column)}: {value:.4g}</title></rect>"
            )
            on = 'class="on" ' if shade > _WHITE_TEXT_FROM else ""
            more = f'{on}font-size="10"'
            parts.append(text(x + _CELL_WIDTH / 2, y + 11.5, show(value), more=more))
    width = _MAP_LEFT + _CELL_WIDTH * len(columns) + _MAP_RIGHT
    height = _MAP_TOP + _CELL_HEIGHT * len(rows) + 8
    return picture("".join(parts), width, height, "error of every tensor")


def percent(share: float) -> str:
    """A share of 1, two figures of it."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def tensor_maps(
    files: Mapping[str, Mapping[str, float]], show: Callable[[float], str] = percent
) -> list[str]:
    """A map for each file of a figure of its tensors, by layer and role, on one scale."""
    seen = [value for of_tensors in files.values() for value in of_tensors.values() if value > 0]
    ends = (min(seen), max(seen)) if seen else (1.0, 1.0)
    parts = []
    for name, of_tensors in files.items():
        cells = {}
        for tensor, value in of_tensors.items():
            stem = tensor.removesuffix(".weight")
            layer, _, role = stem.removeprefix("blk.").partition(".")
            cells[(layer, role) if stem.startswith("blk.") else (_NO_LAYER, stem)] = value
        rows = sorted({row for row, _ in cells}, key=lambda row: int(row or -1))
        roles = list(dict.fromkeys(column for _, column in cells))
        parts += [f"<h3>{escape(name)}</h3>", heat_map(rows, roles, cells, ends, show)]
    return parts
