"""A mixture of experts as operations of a `Graph`: a router, and stacks of matrices."""

from __future__ import annotations

from ggq.blocks._frame import Frame, padded, tile_tokens
from ggq.reader import Tensor
from ggq.runtime.graph import ALL, ROWS, TOKENS, Graph, Phase, Rows
from ggq.runtime.kernels import linear, moe
from ggq.runtime.kernels._op import PRIVATE

Words = dict[str, int]


def experts(g: Graph, x: Rows, name: str, used: int, *, into: Rows) -> None:
    """Add to `into` [T, D] what the `used` experts that the router picks make of each token of x.

    An expert is down(silu(gate x) * up x). Tensors: {name}_gate_inp.weight [experts, D], and
    {name}_gate_exps.weight, up and down, one matrix for each expert.
    """
    router = g.linear(x, f"{name}_gate_inp")
    stacks = _Stacks(g, name, used, router)
    if g.phase in (Phase.DECODE, Phase.FEW):
        stacks.few_tokens(x, into)
    else:
        stacks.many_tokens(x, into)


class _Stacks:
    """The stacks of a layer, `gate` and `up` [experts, width, D], `down` [experts, D, width].

    And the plan made from the router's logits: which tokens each expert has, in tiles of `tile`.
    """

    def __init__(self, g: Graph, name: str, used: int, router: Rows) -> None:
        self.g = g
        self.gate, self.up, self.down = (
            g.tensors[f"{name}_{part}_exps.weight"] for part in ("gate", "up", "down")
        )
        self.experts, self.rows, self.width = self.down.shape
        self.tile = 1 if g.phase in (Phase.DECODE, Phase.FEW) else tile_tokens()
        self.tiles = moe.most_tiles(g.tokens, self.experts, used, self.tile)
        self.plan = self._planned(router, used)
        self.hidden = g._rows("experts.hidden", self.width, self.tiles * self.tile)

    def _planned(self, router: Rows, used: int) -> Words:
        """Words of the plan."""
        g = self.g
        choices = g._rows("choices", moe.CHOICE_BYTES // 4 * used)
        common = {"experts": self.experts, "used": used}
        g._emit(
            moe.route, [(router, TOKENS)], [(choices, TOKENS)], logits=router.word,
            logits_stride=router.stride, keys=g._own("router keys", 4 * self.experts),
            out=choices.word, stride=choices.stride, **common,
        )  # fmt: skip
        plan = g._own("plan", moe.plan_bytes(self.tiles * self.tile, self.experts))
        g._emit(
            moe.plan, [(choices, ALL)], [], choices=choices.word, stride=choices.stride,
            width=self.tile, nexts=g._own("plan nexts", 4 * self.experts), out=plan, **common,
        )  # fmt: skip
        return {"plan": plan, "experts": self.experts}

    def _frame(self, weight: Tensor) -> Frame:
        return linear.frame_of(weight.type, self.g.exact)

    def _inward(self) -> list[tuple[str, Tensor]]:
        return [("gate", self.gate), ("up", self.up)]

    def _outward(self, laid_out: Rows, nbytes: int, into: Rows) -> Words:
        """Words of the matrices `down`."""
        return {
            "w": self.down.address, "row_bytes": self.down.type.row_bytes(self.width),
            "rows": self.rows, "cols": self.width, "x": laid_out.word, "nbytes": nbytes,
            "y": into.word, "stride": into.stride, **self.plan,
        }  # fmt: skip

    # -- rows times vectors ----------------------------------------------------------------------

    def few_tokens(self, x: Rows, into: Rows) -> None:
        """Every row of a chosen expert is read once."""
        g, hidden = self.g, self.hidden
        other = g._rows("experts.other", self.width, self.tiles)
        words, reads = dict(self.plan), []
        for part, weight in self._inward():
            if x.word & PRIVATE:
                image, nbytes = g._image(x, weight), 0
            else:
                images, nbytes = g._images(x, weight)
                image = images.word
                reads.append((images, ALL))
            words |= self._matrix(part, weight, x.cols) | {
                f"{part}_x": image, f"{part}_nbytes": nbytes,
            }  # fmt: skip
        g._emit(
            moe.gated_rows(self.gate.type, self.up.type, g.exact), reads,
            [(hidden, "rows of experts"), (other, "rows of experts")], rows=self.width,
            cols=x.cols, y=hidden.word, other=other.word, stride=hidden.stride, **words,
        )  # fmt: skip
        frame = self._frame(self.down)
        nbytes = padded(frame.image_bytes(self.width))
        images = g._rows(f"images.experts.{frame.key}", nbytes // 4, self.tiles)
        g._emit(
            moe.images(frame.key, frame), [(hidden, ALL)], [(images, "places")],
            x=hidden.word, stride=hidden.stride, cols=self.width, nbytes=nbytes, out=images.word,
            **self.plan,
        )  # fmt: skip
        how = f"{ROWS} {self.rows}"
        g._emit(
            moe.add_rows(self.down.type, g.exact), [(images, ALL), (into, how)], [(into, how)],
            **self._outward(images, nbytes, into),
        )  # fmt: skip

    def _matrix(self, part: str, weight: Tensor, cols: int) -> Words:
        return {part: weight.address, f"{part}_bytes": weight.type.row_bytes(cols)}

    # -- panels times tiles ----------------------------------------------------------------------

    def many_tokens(self, x: Rows, into: Rows) -> None:
        """Every panel of a chosen expert is unpacked once, and meets its own tiles."""
        g, hidden = self.g, self.hidden
        words, reads = dict(self.plan), []
        for part, weight in self._inward():
            tiles, nbytes = self._gathered(x, weight)
            reads.append((tiles, ALL))
            panel = g._own(f"panel.{part}", self._frame(weight).panel_bytes(x.cols))
            words |= self._matrix(part, weight, x.cols) | {
                f"{part}_x": tiles.word, f"{part}_nbytes": nbytes, f"{part}_panel": panel,
            }  # fmt: skip
        g._emit(
            moe.gated_panels(self.gate.type, self.up.type, g.exact), reads,
            [(hidden, "panels of experts")], rows=self.width, cols=x.cols, y=hidden.word,
            stride=hidden.stride, **words,
        )  # fmt: skip
        tiles, nbytes = self._gathered(hidden, self.down)
        panel = g._own("panel", self._frame(self.down).panel_bytes(self.width))
        how = f"{ROWS} {self.rows}"
        g._emit(
            moe.add_panels(self.down.type, g.exact), [(tiles, ALL), (into, how)], [(into, how)],
            panel=panel, **self._outward(tiles, nbytes, into),
        )  # fmt: skip

    def _gathered(self, x: Rows, weight: Tensor) -> tuple[Rows, int]:
        """x in the plan's tiles, made once per layout; and the bytes of a tile."""
        g, frame = self.g, self._frame(weight)
        nbytes = frame.tile_bytes(x.cols)
        key = f"experts.{frame.key}"
        tiles = g._rows(f"tiles.{x.name}.{key}", nbytes // 4, self.tiles)
        if key not in x.layouts:
            x.layouts[key] = tiles.word
            g._emit(
                moe.gather(frame.key, frame), [(x, ALL)], [(tiles, "tiles of experts")],
                x=x.word, stride=x.stride, by_place=int(x.name == self.hidden.name), cols=x.cols,
                nbytes=nbytes, out=tiles.word, **self.plan,
            )  # fmt: skip
        return tiles, nbytes
