"""The channels of an architecture, found by following its forward pass.

`Follower` has the operations of `ggq.runtime.graph.Graph`, so `Arch.forward` runs on it; it keeps
who makes and who reads each activation instead of computing anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ggq.convert.transforms._channels import Axis, Channels, Group, Part, Site

if TYPE_CHECKING:
    from ggq.metadata import Metadata
    from ggq.runtime.graph import Graph

Shapes = Mapping[str, tuple[int, ...]]


def channels_of(metadata: Metadata, shapes: Shapes) -> Channels:
    """What may be scaled and reordered in a model. `shapes` of its tensors are rows first.

    Raises UnsupportedModelError for an architecture ggq does not implement, FormatError.
    """
    from ggq.runtime.arch import by_name

    arch = by_name(metadata.require("general.architecture", str))
    follower = Follower(shapes)
    arch.forward(cast("Graph", follower), arch.hparams(metadata))
    return follower.channels()


@dataclass(frozen=True)
class Followed:
    """An activation: its channels as those of a group and a site, in runs that stand repeated."""

    group: int
    site: Site
    run: int = 0
    copies: int = 1


class Follower:
    """Stands in for a graph. Every operation says what it ties together."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._sites: list[Site] = []
        self._groups: list[Group] = []
        self._joined: list[int] = []  # group -> the one it was joined with, or itself

    def channels(self) -> Channels:
        """What was found, without what may not change."""
        uses = Counter(
            part for site in self._sites for part in {*site.makers, *site.readers}
        )  # the columns of a tied embedding belong to two sites
        sites = [
            site
            for site in self._sites
            if not site.fixed
            and site.makers
            and site.readers
            and all(uses[part] == 1 for part in (*site.makers, *site.readers))
        ]
        groups = [
            group
            for number, group in enumerate(self._groups)
            if self._root(number) == number and not group.fixed and group.readers
        ]
        return Channels(tuple(sites), tuple(groups))

    # -- groups ----------------------------------------------------------------------------------

    def _root(self, number: int) -> int:
        while self._joined[number] != number:
            number = self._joined[number]
        return number

    def _group(self, x: Followed) -> Group:
        return self._groups[self._root(x.group)]

    def _join(self, one: Followed, other: Followed) -> None:
        """The channels of both are in one order from now on."""
        into, source = self._root(one.group), self._root(other.group)
        if into == source:
            return
        kept, left = self._groups[into], self._groups[source]
        if (one.run, one.copies) != (other.run, other.copies) or kept.run != left.run:
            kept.fixed = left.fixed = True
        kept.fixed = kept.fixed or left.fixed
        kept.parts += left.parts
        self._joined[source] = into

    def _new(self, name: str, width: int, *makers: Part, fixed: bool = False) -> Followed:
        """An activation of `width` channels of its own."""
        site = Site(name, width, [part for part in makers if self._has(part)], fixed=fixed)
        self._sites.append(site)
        self._groups.append(Group(name, width, width, list(site.makers)))
        self._joined.append(len(self._joined))
        return Followed(len(self._groups) - 1, site)

    def _has(self, part: Part) -> bool:
        return part.tensor in self._shapes

    def _tie(self, x: Followed, part: Part) -> None:
        """`part` has the order of x."""
        if self._has(part):
            group = self._group(x)
            part = Part(part.tensor, part.axis, x.run, x.copies, part.matrix)
            if part not in group.parts:
                group.parts.append(part)

    def _read(self, x: Followed, tensor: str, matrix: int | None = None) -> None:
        """The columns of `tensor` read x."""
        part = Part(tensor, Axis.COLUMNS, x.run, x.copies, matrix)
        self._tie(x, part)
        x.site.readers.append(part)

    # -- the operations of a graph ---------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the model holds an optional tensor."""
        return name in self._shapes

    def rope(self, *_: Any) -> None:
        """Positions have no channels."""

    def embed(self, name: str, scale: float = 1.0) -> Followed:
        """The residual: other norms read it, so it may not be scaled."""
        table = Part(name, Axis.COLUMNS)
        return self._new("residual", self._shapes[name][-1], table, fixed=True)

    def norm(self, x: Followed, name: str, eps: float, *, last: bool = False) -> Followed:
        """In the order of x; the weight makes each channel as large as it is."""
        x.site.fixed = True
        weight = Part(name, Axis.COLUMNS)
        self._tie(x, weight)
        site = Site(name.removesuffix(".weight"), self._shapes[name][-1], [weight])
        self._sites.append(site)
        return Followed(x.group, site, x.run, x.copies)

    def add_norm(self, y: Followed, name: str, eps: float, x: Followed) -> None:
        """y takes the order of x, and may not be scaled."""
        y.site.fixed = True
        self._join(x, y)
        self._tie(x, Part(name, Axis.COLUMNS))

    def linear(
        self, x: Followed, name: str, *, into: Followed | None = None, bias: str = ""
    ) -> Followed:
        """Columns read x; rows make what comes out, or belong to `into`."""
        weight = f"{name}.weight"
        self._read(x, weight)
        made = (Part(weight, Axis.ROWS), Part(bias, Axis.COLUMNS))
        if into is None:
            return self._new(name, self._shapes[weight][-2], *made)
        for part in made:
            self._tie(into, part)
        return into

    def attention(
        self, q: Followed, k: Followed, v: Followed, layer: int, *, heads_q: int, heads_kv: int,
        dims: int, **_: Any,
    ) -> Followed:  # fmt: skip
        """Weighted sums of values: channels of a value head, in every query head that reads it."""
        for turned in (q, k):
            turned.site.fixed = self._group(turned).fixed = True
        self._group(v).run = dims
        return Followed(v.group, v.site, dims, heads_q // heads_kv)

    def gated(self, kind: str, gate: Followed, up: Followed) -> Followed:
        """f(gate) * up: what scales `up` scales the product."""
        gate.site.fixed = True
        self._join(up, gate)
        return up

    def experts(self, x: Followed, name: str, used: int, *, into: Followed) -> None:
        """A router, and for each expert a gated layer with channels of its own."""
        self._read(x, f"{name}_gate_inp.weight")
        gate, up, down = (f"{name}_{part}_exps.weight" for part in ("gate", "up", "down"))
        self._read(x, gate)
        self._read(x, up)
        count, _, width = self._shapes[down]
        for expert in range(count):
            hidden = self._new(f"{name}.{expert}", width, Part(up, Axis.ROWS, matrix=expert))
            self._tie(hidden, Part(gate, Axis.ROWS, matrix=expert))
            self._read(hidden, down, expert)
        self._tie(into, Part(down, Axis.ROWS))

    def output(self, x: Followed, name: str, softcap: float = 0.0) -> None:
        """Columns read x; rows are tokens."""
        self._read(x, f"{name}.weight")
