"""A mixture of experts as operations of a `Graph`: a router, and stacks of matrices."""

from __future__ import annotations

from ggq.blocks._frame import Frame, padded, tile_tokens
from ggq.reader import Tensor
from ggq.runtime.graph import ALL, ROWS, TOKENS, Graph, Phase, Rows
from ggq.runtime.kernels import linear, moe
from ggq.runtime.kernels._op import PRIVATE

Words = dict[str, int]
# Each place, row of hidden values, or tile is written by one thread; which one, the plan decides.
BY_PLAN = "as planned"


def experts(g: Graph, x: Rows, name: str, used: int, *, into: Rows) -> None:
    """Add to `into` [T, D] what the `used` experts that the router picks make of each token of x.

    An expert is down(silu(gate x) * up x). Tensors: {name}_gate_inp.weight [experts, D], and
    {name}_gate_exps.weight, up and down, one matrix for each expert.
    """
    stacks = _Stacks(g, name, used, g.linear(x, f"{name}_gate_inp"))
    stacks.inward(x)
    stacks.outward(into)


class _Stacks:
    """The stacks of a layer, `gate` and `up` [experts, width, D], `down` [experts, D, width].

    And the plan made from the router's logits: which tokens each expert has. A run of few tokens
    has no expert with many.
    """

    def __init__(self, g: Graph, name: str, used: int, router: Rows) -> None:
        self.g = g
        self.gate, self.up, self.down = (
            g.tensors[f"{name}_{part}_exps.weight"] for part in ("gate", "up", "down")
        )
        self.experts, self.rows, self.width = self.down.shape
        self.has_many = g.phase not in (Phase.DECODE, Phase.FEW)
        self.tile = tile_tokens() if self.has_many else 1
        self.tiles = moe.most_tiles(g.tokens, self.experts, used, self.tile)
        self.plan = self._planned(router, used)
        self.hidden = g._rows("experts.hidden", self.width, self.tiles * self.tile)

    def _planned(self, router: Rows, used: int) -> Words:
        """Words of the plan."""
        g = self.g
        choices = g._rows("choices", moe.CHOICE_BYTES // 4 * used)
        g._emit(
            moe.route, [(router, TOKENS)], [(choices, TOKENS)], logits=router.word,
            logits_stride=router.stride, experts=self.experts, used=used,
            keys=g._own("router keys", 4 * self.experts), out=choices.word, stride=choices.stride,
        )  # fmt: skip
        planned = {
            "plan": g._own("plan", moe.plan_bytes(self.tiles * self.tile, self.experts)),
            "experts": self.experts,
            "width": self.tile,
            "few": moe.FEW if self.has_many else g.tokens,
        }
        g._emit(
            moe.plan, [(choices, ALL)], [], choices=choices.word, stride=choices.stride,
            used=used, nexts=g._own("plan nexts", 4 * self.experts), **planned,
        )  # fmt: skip
        return planned

    def _frame(self, weight: Tensor) -> Frame:
        return linear.frame_of(weight.type, self.g.exact)

    def inward(self, x: Rows) -> None:
        """Hidden values of every place: silu(gate x) * up x."""
        g = self.g
        common = self.plan | {
            "rows": self.width, "cols": x.cols, "y": self.hidden.word,
            "stride": self.hidden.stride,
        }  # fmt: skip
        rows, panels = dict(common), dict(common)
        few, many = [], []
        for part, weight in (("gate", self.gate), ("up", self.up)):
            matrix = {part: weight.address, f"{part}_bytes": weight.type.row_bytes(x.cols)}
            images, nbytes = self._images_of_tokens(x, weight)
            few.append((images, ALL))
            rows |= matrix | {f"{part}_x": images.word, f"{part}_nbytes": nbytes}
            if self.has_many:
                tiles, nbytes = self._gathered(x, weight)
                many.append((tiles, ALL))
                panel = g._own(f"panel.{part}", self._frame(weight).panel_bytes(x.cols))
                panels |= matrix | {
                    f"{part}_x": tiles.word, f"{part}_nbytes": nbytes, f"{part}_panel": panel,
                }  # fmt: skip
        types = self.gate.type, self.up.type, g.exact
        other = g._rows("experts.other", self.width, self.tiles * self.tile)
        out = [(self.hidden, BY_PLAN)]
        op = moe.gated_rows(*types)
        g._emit(op, few, [*out, (other, BY_PLAN)], other=other.word, **rows)
        if self.has_many:
            g._emit(moe.gated_panels(*types), many, out, **panels)

    def outward(self, into: Rows) -> None:
        """Added to each token: down times the hidden values, weighted."""
        g, down = self.g, self.down
        common = self.plan | {
            "w": down.address, "row_bytes": down.type.row_bytes(self.width), "rows": self.rows,
            "cols": self.width, "y": into.word, "stride": into.stride,
        }  # fmt: skip
        images, nbytes = self._images_of_places()
        rows = common | {"x": images.word, "nbytes": nbytes}
        if self.has_many:
            tiles, nbytes = self._gathered(self.hidden, down)
            panel = g._own("panel", self._frame(down).panel_bytes(self.width))
            panels = common | {"x": tiles.word, "nbytes": nbytes, "panel": panel}
        out = (into, f"{ROWS} {self.rows}")
        g._emit(moe.add_rows(down.type, g.exact), [(images, ALL), out], [out], **rows)
        if self.has_many:
            g._emit(moe.add_panels(down.type, g.exact), [(tiles, ALL), out], [out], **panels)

    # -- activations laid out ---------------------------------------------------------------------

    def _images_of_tokens(self, x: Rows, weight: Tensor) -> tuple[Rows, int]:
        """x laid out for rows, and the bytes of a token."""
        if x.word & PRIVATE:
            return Rows(f"{x.name}.own", self.g._image(x, weight), 0, x.cols), 0
        return self.g._images(x, weight)

    def _images_of_places(self) -> tuple[Rows, int]:
        """Hidden values laid out for rows, and the bytes of a place."""
        g, frame = self.g, self._frame(self.down)
        nbytes = padded(frame.image_bytes(self.width))
        images = g._rows(f"images.experts.{frame.key}", nbytes // 4, self.tiles * self.tile)
        g._emit(
            moe.images(frame.key, frame), [(self.hidden, ALL)], [(images, BY_PLAN)],
            x=self.hidden.word, stride=self.hidden.stride, cols=self.width, nbytes=nbytes,
            out=images.word, **self.plan,
        )  # fmt: skip
        return images, nbytes

    def _gathered(self, x: Rows, weight: Tensor) -> tuple[Rows, int]:
        """x, of tokens or of places, in the plan's tiles; and the bytes of a tile."""
        g, frame = self.g, self._frame(weight)
        nbytes = frame.tile_bytes(x.cols)
        name = f"tiles.experts.{x.name}.{frame.key}"
        tiles = g._rows(name, nbytes // 4, self.tiles)
        if name not in x.layouts:
            x.layouts[name] = tiles.word
            g._emit(
                moe.gather(frame.key, frame), [(x, ALL)], [(tiles, BY_PLAN)],
                x=x.word, stride=x.stride, by_place=int(x is self.hidden), cols=x.cols,
                nbytes=nbytes, out=tiles.word, **self.plan,
            )  # fmt: skip
        return tiles, nbytes
