"""Types of 256 weights a block in sub-blocks: w = d * scale * (q - offset) - dmin * min.

The scales of sub-blocks are small integers, so a whole block is summed in integers and scaled
once. Two dot products of 16 useful bits share one multiply by their scales (`dot_pairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from ggq.blocks._activation import QuantizedBlock
from ggq.blocks._base import BlockType
from ggq.blocks._frame import (
    Ahead,
    Frame,
    lines,
    padded,
    panel_rows,
    row_addresses,
    store_words,
    stream,
    tile_tokens,
    token_values,
)
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
    Var,
    const,
    discarded,
    f32,
    fma,
    hsum,
    i8,
    i16,
    i32,
    i64,
    load,
    loop,
    scratch,
    shuffle,
    splat,
    store,
    u8,
    u32,
    var,
    when,
    widen,
    zeros,
)  # fmt: skip
from ggq.jit.transpose import columns

BLOCK = 256
CHUNK = 16  # codes that stay together in every layout


class SuperBlock(BlockType):
    """A family gives `codes`, `scales`, and where it has them `minima` and `offset`.

    `codes(blocks, width)` yields (starts, vector): u8[width] or i8[width] codes, `starts` telling
    for each chunk of 16 of them which weight its first one is. Where `width` is the target's, it
    may tell of each code which weight it is, -1 for none; any four codes are then of one chunk.
    `scales` and `minima` are i16 vectors, one lane per sub-block. `offset` lowers unsigned codes.
    """

    weights = BLOCK
    group: ClassVar[int]  # weights per sub-block
    offset: ClassVar[int] = 0
    signed: ClassVar[bool] = False
    narrow: ClassVar[bool] = True  # codes are below 64: four products fit 16 bits
    scaled: ClassVar[bool] = True  # whether there are scales other than 1
    room: ClassVar[int] = BLOCK  # bytes of all code vectors, with codes of no weight
    has_minimum: ClassVar[bool] = False

    @property
    def blocks_at_once(self) -> int:
        """Blocks of a row that are better unpacked together."""
        return 1

    def look_ahead(self, several: Sequence[Blocks]) -> None:
        """Do for `blocks_at_once` blocks what is quicker for all together."""

    @property
    def groups(self) -> int:
        """Sub-blocks of a block."""
        return BLOCK // self.group

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """8-bit codes of one block in vectors of `width`."""
        raise NotImplementedError

    def scales(self, blocks: Blocks) -> Value:
        """i16[groups]."""
        raise NotImplementedError

    def minima(self, blocks: Blocks) -> Value:
        """i16[groups]."""
        raise NotImplementedError

    def scale(self, blocks: Blocks) -> Value:
        """f32 d of the block."""
        return blocks.half("d")

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """(first weight, f32 vector) parts of one block, in the reference's own rounding."""
        blocks = Blocks(self, address)
        lanes = min(target().lanes, CHUNK)
        scales = self.scales(blocks).to(f32) * self.scale(blocks)
        if self.has_minimum:
            minima = self.minima(blocks).to(f32) * blocks.half("dmin")
        for starts, codes in self.codes(blocks, CHUNK):
            for part in range(0, CHUNK, lanes):
                q = shuffle(codes, range(part, part + lanes)).to(i32)
                group = starts[0] // self.group
                w = (q - self.offset if self.offset else q).to(f32) * splat(scales[group], lanes)
                if self.has_minimum:
                    w = w - splat(minima[group], lanes)
                yield starts[0] + part, w

    def frame(self) -> Frame:
        """The integer frame of the family."""
        return SuperFrame(self)


class SuperFrame(Frame):
    """Integer dot products over whole super-blocks."""

    activation_block = BLOCK

    def __init__(self, family: SuperBlock) -> None:
        self.family = family

    def _codes(self, blocks: Blocks) -> Iterator[tuple[list[int], Value]]:
        """(weights, codes) of each vector."""
        nbytes = target().nbytes
        for starts, codes in self.family.codes(blocks, nbytes):
            whole = [start + i for start in starts for i in range(nbytes // len(starts))]
            yield whole, codes

    def _order(self) -> list[list[tuple[int, ...]]]:
        """The fours of weights of each code vector."""
        with discarded():
            vectors = list(self._codes(Blocks(self.family, const(i64, 0))))
        return [
            [tuple(weights[i : i + 4]) for i in range(0, len(weights), 4)] for weights, _ in vectors
        ]

    def _moved(self, block: QuantizedBlock, fours: Sequence[tuple[int, ...]]) -> Value:
        """i8[16]: codes of a chunk, four after four."""
        start = min(min(four) for four in fours)
        return shuffle(block.codes(start, CHUNK), [w - start for four in fours for w in four])

    def _excess(self) -> int:
        if self.family.signed:
            return 0 if target().signed_dot else 128
        return self.family.offset

    def _operand(self, codes: Value) -> Value:
        """Codes as the target multiplies them best."""
        if codes.type.kind == "u" or target().signed_dot:
            return codes
        n = codes.type.lanes
        return codes.bits(u8 * n) ^ const(u8 * n, 0x80)

    def _dot(self, acc: Value, codes: Value, x: Value) -> Value:
        if codes.type.kind == "i":
            return target().dot_signed(acc, codes, x)
        return target().dot_unsigned(acc, codes, x)

    @property
    def key(self) -> str:  # type: ignore[override]
        family = self.family
        extra = "m" if family.has_minimum else f"o{self._excess()}"
        # Equal layout only for equal order: the family's name stands for it.
        return f"q256{family.name}g{family.group}{extra}"

    # -- one vector: 256 codes in the family's order, the sums of its sub-blocks, the scale ------

    def _record(self) -> int:
        return padded(self.family.room + 2 * 16 + 4)

    def image_bytes(self, cols: int) -> int:
        return cols // BLOCK * self._record()

    def write_image(self, x: Value, cols: Value, image: Value) -> None:
        family = self.family
        order = [four for fours in self._order() for four in fours]
        places = {four: k for k, four in enumerate(order)}
        unused = [4 * k for k, four in enumerate(order) if four[0] < 0]
        for b in loop(cols // BLOCK):
            block = QuantizedBlock(x + b * (4 * BLOCK), BLOCK)
            out = image + b * self._record()
            for chunk in _chunks(order):
                codes = self._moved(block, chunk)
                at = [4 * places[four] for four in chunk]
                if at == list(range(at[0], at[0] + CHUNK, 4)):
                    store(out + at[0], codes)
                    continue
                for k, place in enumerate(at):
                    store(out + place, codes.bits(i32 * 4)[k], 4)
            for place in unused:
                store(out + place, const(i32, 0), 4)
            for j in range(family.groups):
                total = block.total(j * family.group, family.group).to(i16)
                store(out + (family.room + 2 * j), total, 2)
            store(out + (family.room + 32), block.scale, 4)

    def dot_row(self, row: Value, cols: Value, images: Sequence[Value]) -> list[Value]:
        family, t = self.family, target()
        totals = [var(zeros(f32 * t.lanes)) for _ in images]
        minima = [var(zeros(f32 * (family.groups // 2))) for _ in images]
        blocks, at_once, whole = cols // BLOCK, family.blocks_at_once, const(i64, 0)
        if at_once > 1:
            whole = blocks // at_once * at_once
            for first in loop(0, whole, at_once):
                views = [self._view(row, first + k) for k in range(at_once)]
                family.look_ahead(views)
                for k, view in enumerate(views):
                    self._add_block(view, self._records(images, first + k), totals, minima)
        for b in loop(whole, blocks):
            self._add_block(self._view(row, b), self._records(images, b), totals, minima)
        if not family.has_minimum:
            return [hsum(total) for total in totals]
        return [hsum(total) - hsum(low) for total, low in zip(totals, minima, strict=True)]

    def _view(self, row: Value, block: Value) -> Blocks:
        view = Blocks(self.family, row + block * self.family.nbytes)
        stream(view.address, self.family.nbytes)
        return view

    def _records(self, images: Sequence[Value], block: Value) -> list[Value]:
        return [image + block * self._record() for image in images]

    def _add_block(
        self, view: Blocks, xs: list[Value], totals: list[Var], minima: list[Var]
    ) -> None:
        """Add a block times its part of each image."""
        family, t, groups = self.family, target(), self.family.groups
        scales, d = family.scales(view), family.scale(view)
        accs = self._scaled_dots(view, scales, xs, [self._start(scales, x) for x in xs])
        for x, acc, total in zip(xs, accs, totals, strict=True):
            dx = load(f32, x + (family.room + 32), 4)
            total.set(fma(acc.to(f32), splat(d * dx, t.lanes), total))
        if family.has_minimum:
            lows, dmin = family.minima(view), view.half("dmin")
            for x, low in zip(xs, minima, strict=True):
                sums, dx = (
                    load(i16 * groups, x + family.room, 2),
                    load(f32, x + (family.room + 32), 4),
                )
                m = t.dot_pairs(zeros(i32 * (groups // 2)), lows, sums)
                low.set(fma(m.to(f32), splat(dmin * dx, groups // 2), low))

    def _start(self, scales: Value, x: Value) -> Value:
        """i32 vector the dots of a block are added to: what the codes' excess makes too much."""
        lanes = target().lanes
        if not self._excess():
            return zeros(i32 * lanes)
        groups = self.family.groups
        sums = load(i16 * groups, x + self.family.room, 2)
        fix = target().dot_pairs(zeros(i32 * (groups // 2)), scales, sums) * -self._excess()
        return _fit(fix, lanes)

    def _scaled_dots(
        self, view: Blocks, scales: Value, xs: list[Value], accs: list[Value]
    ) -> list[Value]:
        """Each acc + the sum over sub-blocks of scale * dot, spread over its lanes."""
        t, lanes = target(), target().lanes
        in_pairs = self.family.narrow and t.pairs_dots
        waiting: tuple[list[Value], list[int]] | None = None
        for k, (weights, codes) in enumerate(self._codes(view)):
            operand = self._operand(codes)
            moved = [load(i8 * t.nbytes, x + t.nbytes * k) for x in xs]
            group = [max(weight, 0) // self.family.group for weight in weights[::4]]
            group = group if self.family.scaled else [0] * lanes
            dots = [zeros(i32 * lanes) for _ in xs]
            if not in_pairs and waiting is not None:
                # Dots of the same sub-blocks in the same lanes are scaled together.
                if waiting[1] == group:
                    dots = waiting[0]
                else:
                    accs = _scaled(accs, *waiting, scales)
            dots = [self._dot(dot, operand, x) for dot, x in zip(dots, moved, strict=True)]
            if not in_pairs or waiting is None:
                waiting = (dots, group)
            else:
                # Both fit 16 bits: 4 * 63 * 127 < 2^15. Even lanes of the pair are the first's.
                firsts, group0 = waiting
                pairs = [g for both in zip(group0, group, strict=True) for g in both]
                scale = shuffle(scales, pairs)
                both = [
                    ((first & 0xFFFF) | (dot << 16)).bits(i16 * (2 * lanes))
                    for first, dot in zip(firsts, dots, strict=True)
                ]
                accs = [t.dot_pairs(acc, p, scale) for acc, p in zip(accs, both, strict=True)]
                waiting = None
        if waiting is not None:
            accs = _scaled(accs, *waiting, scales)
        return accs

    # -- a panel of rows times a tile of tokens --------------------------------------------------
    # Panel, per block: 64 dwords of codes for every row; the scale of every sub-block as i32 for
    # every row; d of every row; with minima, pairs of them for every row and dmin of every row.
    # Tile, per block: for every sub-block the codes of each token; for every token corrections per
    # sub-block (or pairs of sums where there are minima); d.

    def _panel_block(self) -> int:
        extra = self.family.groups // 2 + 1 if self.family.has_minimum else 0
        return 4 * panel_rows() * (BLOCK // 4 + self.family.groups + 1 + extra)

    def panel_bytes(self, cols: int) -> int:
        return cols // BLOCK * self._panel_block()

    def pack_panel(self, row: Callable[[int], Value], cols: Value, panel: Value) -> None:
        family, rows, addresses = self.family, panel_rows(), row_addresses(row)
        line, groups, nbytes = 4 * rows, family.groups, target().nbytes
        order = self._order()
        used = sorted(four for fours in order for four in fours if four[0] >= 0)
        slots = {four: k for k, four in enumerate(used)}
        # One block of every row: codes [vector][row], scales [row], on their way to [...][row].
        codes = scratch(family.room * rows)
        scales, minima = scratch(4 * groups * rows), scratch(2 * groups * rows)
        for b in loop(cols // BLOCK):
            out = panel + b * self._panel_block()
            scales_out = out + (BLOCK // 4) * line
            d_out = scales_out + groups * line
            minima_out = d_out + line
            for r in loop(rows):
                view = Blocks(family, load(i64, addresses + r * 8, 8) + b * family.nbytes)
                for k, (_, part) in enumerate(self._codes(view)):
                    store(codes + (r + k * rows) * nbytes, self._operand(part), 4)
                store(scales + r * (4 * groups), family.scales(view).to(i32), 4)
                store(d_out + r * 4, family.scale(view), 4)
                if family.has_minimum:
                    store(minima + r * (2 * groups), family.minima(view), 4)
                    store(minima_out + (groups // 2) * line + r * 4, view.half("dmin"), 4)
            for k, fours in enumerate(order):
                each = lines(u32 * target().lanes, codes + k * rows * nbytes, nbytes)
                placed = zip(fours, columns(each), strict=True)
                store_words(out, {slots[four]: word for four, word in placed if four in slots})
            for j, column in enumerate(columns(lines(i32 * groups, scales, 4 * groups))):
                store(scales_out + j * line, column, 4)
            if family.has_minimum:
                pairs = lines(i32 * (groups // 2), minima, 2 * groups)
                for j, column in enumerate(columns(pairs)):
                    store(minima_out + j * line, column, 4)

    def _tile_words(self) -> int:
        groups = self.family.groups
        return BLOCK // 4 + (groups // 2 if self.family.has_minimum else groups) + 1

    def tile_bytes(self, cols: int) -> int:
        return cols // BLOCK * self._tile_words() * 4 * tile_tokens()

    def write_tile(self, x: Value, cols: Value, tile: Value, token: Value) -> None:
        family, stride, words = self.family, 4 * tile_tokens(), self._tile_words()
        order = sorted(four for fours in self._order() for four in fours)
        nothing = zeros(i32 * 4)
        with when(x.eq(0)):
            for b in loop(cols // BLOCK):
                out = tile + b * (words * stride)
                for k in range(BLOCK // CHUNK):
                    store(self._tile_codes(out, token, CHUNK * k), nothing, 4)
                for j in range(BLOCK // 4, words):
                    store(out + j * stride + token * 4, nothing[0], 4)
        with when(x.ne(0)):
            for b in loop(cols // BLOCK):
                block = QuantizedBlock(x + b * (4 * BLOCK), BLOCK)
                first = tile + b * (words * stride)
                for k, chunk in enumerate(_chunks(order)):
                    store(self._tile_codes(first, token, CHUNK * k), self._moved(block, chunk), 4)
                out = first + token * 4
                sums = [block.total(j * family.group, family.group) for j in range(family.groups)]
                if family.has_minimum:
                    extra = [
                        (sums[j] & 0xFFFF) | (sums[j + 1] << 16) for j in range(0, family.groups, 2)
                    ]
                else:
                    extra = [s * -self._excess() for s in sums]
                for j, word in enumerate(extra):
                    store(out + (BLOCK // 4 + j) * stride, word, 4)
                store(out + (words - 1) * stride, block.scale, 4)

    def _tile_codes(self, block: Value, token: int | Value, weight: int) -> Value:
        """Address of a token's codes from a weight of the block on, to the sub-block's end."""
        group = self.family.group
        at = weight // group * (group * tile_tokens()) + weight % group
        return block + (token * group + at)

    def steps(self, cols: Value) -> Value:
        return cols // BLOCK

    def multiply(
        self, panel: Value, tile: Value, cols: Value, ahead: Ahead | None = None
    ) -> list[Value]:
        family, rows, tokens = self.family, panel_rows(), tile_tokens()
        line, groups, words = 4 * rows, family.groups, self._tile_words()
        per_group = family.group // 4
        code = i8 if family.signed and target().signed_dot else u8
        sums = [var(zeros(f32 * rows)) for _ in range(tokens)]
        for b in loop(cols // BLOCK):
            if ahead:
                ahead.step()
            p, x = panel + b * self._panel_block(), tile + b * (words * 4 * tokens)
            total = [var(zeros(i32 * rows)) for _ in range(tokens)]
            for j in loop(groups):
                acc = [zeros(i32 * rows)] * tokens
                if self._excess() and not family.has_minimum:
                    acc = token_values(i32, x, j + BLOCK // 4)
                w0, x0 = p + j * (per_group * line), x + j * (family.group * tokens)
                acc = target().dot_tile(acc, code, w0, x0, per_group)
                scale = load(i32 * rows, p + (j + BLOCK // 4) * line, 4)
                for t in range(tokens):
                    total[t] += acc[t] * scale
            tail = p + (BLOCK // 4 + groups) * line
            d = load(f32 * rows, tail, 4)
            whole = [total[t].to(f32) * d for t in range(tokens)]
            if family.has_minimum:
                dmin = load(f32 * rows, tail + (1 + groups // 2) * line, 4)
                low = [zeros(i32 * rows)] * tokens
                for pair in range(groups // 2):
                    m = load(i16 * (2 * rows), tail + (1 + pair) * line, 4)
                    for t, s in enumerate(token_values(i32, x, BLOCK // 4 + pair)):
                        low[t] = target().dot_pairs(low[t], m, s.bits(i16 * (2 * rows)))
                whole = [whole[t] - low[t].to(f32) * dmin for t in range(tokens)]
            for t, dx in enumerate(token_values(f32, x, words - 1)):
                sums[t].set(fma(whole[t], dx, sums[t]))
        return [s.value for s in sums]


def _chunks(order: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """The fours of every chunk, in order of their first weights."""
    order = sorted(four for four in order if four[0] >= 0)
    return [order[i : i + 4] for i in range(0, len(order), 4)]


def _scaled(accs: list[Value], dots: list[Value], group: list[int], scales: Value) -> list[Value]:
    """acc + dot * scale, lane by lane; `group` is the sub-block of each lane."""
    scale = shuffle(scales, group).to(i32)
    return [acc + dot * scale for acc, dot in zip(accs, dots, strict=True)]


def _fit(v: Value, lanes: int) -> Value:
    """The same total in a vector of `lanes`."""
    while v.type.lanes > lanes:
        half = v.type.lanes // 2
        v = shuffle(v, range(half)) + shuffle(v, range(half, 2 * half))
    return widen(v, lanes)
