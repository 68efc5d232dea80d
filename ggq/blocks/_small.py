"""Types of runs of 32 or 16 weights with one scale, perhaps a minimum: w = d * (q - offset) + m.

Several runs are taken at once, so that their codes fill a vector; each lane of the integer dot
product then belongs to one run and is scaled by that run's d times the activations' d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

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
    concat,
    const,
    f32,
    fma,
    hsum,
    i8,
    i32,
    i64,
    load,
    loop,
    scratch,
    shuffle,
    splat,
    split,
    store,
    u8,
    u16,
    u32,
    var,
    when,
    widen,
    zeros,
)  # fmt: skip
from ggq.jit.transpose import columns

BLOCK = 32  # activations with one scale


class SmallBlock(BlockType):
    """A family gives `codes`, `scale`, and where it has one `minimum` and `offset`.

    `codes(blocks)` is the list of code vectors of `blocks.count` blocks, `parts` of them: the first
    has the first half of every run's codes and the second the second, or one has all. u8 codes are
    lowered by `offset`, i8 codes are taken as they are. `order` tells of each code of a run which
    weight of the run it is, where that is not its own number.
    """

    weights = BLOCK
    run: ClassVar[int] = BLOCK  # weights with one scale; a block has one or more runs
    parts: ClassVar[int] = 2
    order: ClassVar[tuple[int, ...]] = ()
    offset: ClassVar[int] = 0
    signed: ClassVar[bool] = False
    has_minimum: ClassVar[bool] = False

    @property
    def runs(self) -> int:
        """Runs of a block."""
        return self.weights // self.run

    def codes(self, blocks: Blocks) -> list[Value]:
        """8-bit codes of the blocks."""
        raise NotImplementedError

    def scale(self, blocks: Blocks) -> Value:
        """f32 d of every block, repeated; where runs differ, each has its share of the repeats."""
        return blocks.half("d")

    def minimum(self, blocks: Blocks) -> Value:
        """f32 m of every block."""
        return blocks.half("m")

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """(first weight, f32 vector) parts of one block, in the reference's own rounding."""
        blocks = Blocks(self, address, repeat=self.runs)
        lanes, half = min(target().lanes, 16), self.run // self.parts
        d, codes = self.scale(blocks), concat(*self.codes(blocks))
        code_of = {weight: code for code, weight in enumerate(self.order or range(self.run))}
        for first in range(0, self.weights, lanes):
            run, places = first // self.run, []
            for weight in range(first, first + lanes):
                part, place = divmod(code_of[weight % self.run], half)
                places.append((part * self.runs + run) * half + place)
            q = shuffle(codes, places).to(i32)
            w = (q - self.offset if self.offset else q).to(f32) * d[run]
            yield first, w + self.minimum(blocks)[0] if self.has_minimum else w

    def frame(self) -> Frame:
        """The integer frame of the family."""
        return SmallFrame(self)


class _Run(NamedTuple):
    """Activations of one run, in the order of the codes."""

    codes: Value  # i8[run]
    scale: Value
    total: Value  # sum of the codes


class _Sums:
    """What one vector's products add up to: scaled dots, and minima times weighted sums."""

    def __init__(self, lanes: int, blocks: int) -> None:
        self.total = var(zeros(f32 * lanes))
        self.minima = var(zeros(f32 * blocks))


class SmallFrame(Frame):
    """Integer dot products over groups of small blocks."""

    activation_block = BLOCK

    def __init__(self, family: SmallBlock) -> None:
        self.family = family

    # -- what the family's codes look like ---------------------------------------------------

    def _group(self) -> int:
        """Runs of a full step."""
        family = self.family
        return max(target().nbytes * family.parts // family.run, family.runs)

    def _per_run(self) -> int:
        """Lanes of the accumulator that belong to one run."""
        return self.family.run // self.family.parts // 4

    def _as_dot_operand(self, codes: Value) -> tuple[Value, int]:
        """Codes as the target multiplies them best, and how much they are then too large."""
        if codes.type.kind == "u":
            return codes, self.family.offset
        if target().signed_dot:
            return codes, 0
        n = codes.type.lanes
        return codes.bits(u8 * n) ^ const(u8 * n, 0x80), 128

    def _excess(self) -> int:
        if self.family.signed:
            return 0 if target().signed_dot else 128
        return self.family.offset

    @property
    def key(self) -> str:  # type: ignore[override]
        family = self.family
        extra = "m" * family.has_minimum + family.name * bool(family.order)
        return f"q{family.run}x{self._group()}p{family.parts}o{self._excess()}{extra}"

    def _dot(self, acc: Value, codes: Value, x: Value) -> Value:
        if codes.type.kind == "i":
            return target().dot_signed(acc, codes, x)
        return target().dot_unsigned(acc, codes, x)

    # -- one vector --------------------------------------------------------------------------
    # A group of g runs: their codes, then per i32 lane of the accumulator the correction
    # -excess * (sum of its activations) and the scale, then per run the weighted sum.

    def _image(self) -> tuple[int, int, int, int]:
        """(bytes per group, offsets of corrections, scales, sums)."""
        g, lane_bytes = self._group(), 4 * self._group() * self._per_run()
        fixes = self.family.run * g
        scales = fixes + lane_bytes
        sums = scales + lane_bytes
        return padded(sums + 4 * g), fixes, scales, sums

    def image_bytes(self, cols: int) -> int:
        return -(-cols // (self.family.run * self._group())) * self._image()[0]

    def write_image(self, x: Value, cols: Value, image: Value) -> None:
        g, parts, per_run = self._group(), self.family.parts, self._per_run()
        nbytes, fixes, scales, sums = self._image()
        width = self.family.run // parts
        for number, run in self._runs(x, cols):
            group, k = image + (number // g) * nbytes, number % g
            fix = zeros(i32 * per_run)
            ones = const(u8 * width, 1)
            for p, codes in enumerate(split(run.codes, width)):
                store(group + k * width + p * width * g, codes)
                fix = target().dot_unsigned(fix, ones, codes)
            store(group + k * (4 * per_run) + fixes, fix * -self._excess(), 4)
            store(group + k * (4 * per_run) + scales, splat(run.scale, per_run), 4)
            store(group + k * 4 + sums, run.total.to(f32) * run.scale, 4)

    def _runs(self, x: Value, cols: Value) -> Iterator[tuple[Value, _Run]]:
        """(number, activations) of every run, in traced control flow."""
        size = self.family.run
        for b in loop(cols // BLOCK):
            block = QuantizedBlock(x + b * (4 * BLOCK), BLOCK)
            for k in range(BLOCK // size):
                codes = block.codes(k * size, size)
                if self.family.order:
                    codes = shuffle(codes, self.family.order)
                yield (
                    b * (BLOCK // size) + k,
                    _Run(codes, block.scale, block.total(k * size, size)),
                )

    def _groups(self, blocks: Value) -> Iterator[tuple[Value, int]]:
        """(first block, blocks) of every step through a row, in traced control flow.

        What whole groups leave is taken in halves, quarters, ... as the bits of its count say.
        """
        count = self._group() // self.family.runs
        whole = blocks - blocks % count
        for b in loop(0, whole, count):
            yield b, count
        at = var(whole)
        while count := count // 2:
            with when((blocks & count).ne(0)):
                yield at.value, count
                at += count

    def dot_row(self, row: Value, cols: Value, images: Sequence[Value]) -> list[Value]:
        g, runs = self._group(), self.family.runs
        sums = [_Sums(g * self._per_run(), g) for _ in images]
        for b, count in self._groups(cols // self.family.weights):
            k = b * runs % g if count * runs < g else const(i64, 0)
            groups = [image + (b * runs // g) * self._image()[0] for image in images]
            self._step(row, b, count, groups, k, sums)
        if not self.family.has_minimum:
            return [hsum(s.total) for s in sums]
        return [hsum(s.total) + hsum(s.minima) for s in sums]

    def _step(
        self, row: Value, b: Value, count: int, groups: list[Value], k: Value, sums: list[_Sums]
    ) -> None:
        """Blocks b .. b + count of the row times the runs from k on of an image group each."""
        g, parts, runs = self._group(), self.family.parts, self.family.runs
        per_run, (_, fixes, scales, weighted) = self._per_run(), self._image()
        width, lanes = self.family.run // parts, count * runs * per_run
        view = Blocks(self.family, row + b * self.family.nbytes, count)
        stream(view.address, count * self.family.nbytes)
        codes = [self._as_dot_operand(part)[0] for part in self.family.codes(view)]
        d = self.family.scale(view.repeated(runs * per_run))
        m = self.family.minimum(view.repeated(runs)) if self.family.has_minimum else None
        for group, each in zip(groups, sums, strict=True):
            acc = zeros(i32 * lanes)
            if self._excess():
                acc = load(i32 * lanes, group + k * (4 * per_run) + fixes, 4)
            for p, part in enumerate(codes):
                x = load(i8 * (count * runs * width), group + k * width + p * width * g)
                acc = self._dot(acc, part, x)
            scale = d * load(f32 * lanes, group + k * (4 * per_run) + scales, 4)
            whole = each.total.type.lanes
            each.total.set(fma(widen(acc.to(f32), whole), widen(scale, whole), each.total))
            if m is not None:
                s = load(f32 * (count * runs), group + k * 4 + weighted, 4)
                each.minima.set(fma(widen(m, g), widen(s, g), each.minima))

    # -- a panel of rows times a tile of tokens ----------------------------------------------
    # Panel, per run: dwords of codes for every row, d of every row, m of every row.
    # Tile, per run: the codes of each token; corrections, d, and d * sum of every token.

    def _dwords(self) -> int:
        return self.family.run // 4

    def _panel_run(self) -> int:
        return panel_rows() * 4 * (self._dwords() + 1 + self.family.has_minimum)

    def panel_bytes(self, cols: int) -> int:
        return cols // self.family.run * self._panel_run()

    def pack_panel(self, row: Callable[[int], Value], cols: Value, panel: Value) -> None:
        family, rows, record = self.family, panel_rows(), self._panel_run()
        g, parts, runs, dwords = self._group(), family.parts, family.runs, self._dwords()
        addresses = row_addresses(row)
        # One group of every row: codes [part][row], d [row], m [row], on their way to [...][row].
        width = family.run * g // parts
        codes = scratch(parts * rows * width)
        scales, minima = scratch(rows * 4 * g), scratch(rows * 4 * g)
        for b, count in self._groups(cols // family.weights):
            for r in loop(rows):
                address = load(i64, addresses + r * 8, 8) + b * family.nbytes
                view = Blocks(family, address, count, runs)
                for p, part in enumerate(family.codes(view)):
                    store(codes + (r + p * rows) * width, self._as_dot_operand(part)[0], 4)
                store(scales + r * (4 * g), family.scale(view), 4)
                if family.has_minimum:
                    store(minima + r * (4 * g), family.minimum(view), 4)
            out, per_part = panel + b * (runs * record), dwords // parts
            for p in range(parts):
                each = lines(u32 * (count * runs * per_part), codes + p * rows * width, width)
                words = columns(each)
                for k in range(count * runs):
                    own = words[k * per_part : (k + 1) * per_part]
                    store_words(out + k * record, dict(enumerate(own, p * per_part)))
            for k, column in enumerate(columns(lines(f32 * (count * runs), scales, 4 * g))):
                store(out + (k * record + 4 * dwords * rows), column, 4)
            if family.has_minimum:
                for k, column in enumerate(columns(lines(f32 * (count * runs), minima, 4 * g))):
                    store(out + (k * record + 4 * (dwords + 1) * rows), column, 4)

    def _tile_run(self) -> int:
        return tile_tokens() * 4 * (self._dwords() + 3)

    def tile_bytes(self, cols: int) -> int:
        return cols // self.family.run * self._tile_run()

    def write_tile(self, x: Value, cols: Value, tile: Value, token: Value) -> None:
        stride, dwords, size = 4 * tile_tokens(), self._dwords(), self.family.run
        nothing = zeros(i8 * size)
        with when(x.eq(0)):
            for number in loop(cols // size):
                first = tile + number * self._tile_run()
                store(first + token * size, nothing, 4)
                for k in range(dwords, dwords + 3):
                    store(first + k * stride + token * 4, const(i32, 0), 4)
        with when(x.ne(0)):
            for number, run in self._runs(x, cols):
                first = tile + number * self._tile_run()
                store(first + token * size, run.codes, 4)
                out = first + token * 4
                store(out + dwords * stride, run.total * -self._excess(), 4)
                store(out + (dwords + 1) * stride, run.scale, 4)
                store(out + (dwords + 2) * stride, run.total.to(f32) * run.scale, 4)

    def steps(self, cols: Value) -> Value:
        return cols // self.family.run

    def multiply(
        self, panel: Value, tile: Value, cols: Value, ahead: Ahead | None = None
    ) -> list[Value]:
        rows, tokens, dwords = panel_rows(), tile_tokens(), self._dwords()
        sums = [var(zeros(f32 * rows)) for _ in range(tokens)]
        code = i8 if self.family.signed and target().signed_dot else u8
        for number in loop(cols // self.family.run):
            if ahead:
                ahead.step()
            p, x = panel + number * self._panel_run(), tile + number * self._tile_run()
            acc = [zeros(i32 * rows)] * tokens
            if self._excess():
                acc = token_values(i32, x, dwords)
            acc = target().dot_tile(acc, code, p, x, dwords)
            d = load(f32 * rows, p + 4 * rows * dwords, 4)
            for dot, dx, total in zip(acc, token_values(f32, x, dwords + 1), sums, strict=True):
                total.set(fma(dot.to(f32), d * dx, total))
            if self.family.has_minimum:
                m = load(f32 * rows, p + 4 * rows * (dwords + 1), 4)
                for s, total in zip(token_values(f32, x, dwords + 2), sums, strict=True):
                    total.set(fma(m, s, total))
        return [s.value for s in sums]


def low_nibbles(codes: Value) -> Value:
    """Lower four bits of every byte."""
    return codes & 15


def high_nibbles(codes: Value) -> Value:
    """Upper four bits of every byte."""
    n = codes.type.lanes
    return (codes.bits(u16 * (n // 2)) >> 4).bits(u8 * n) & 15


def moved_bit(codes: Value, sources: list[int], place: int) -> Value:
    """u8[n]: one bit of every byte moved to `place`; `sources` says which in each four bytes."""
    n = codes.type.lanes
    left = const(u32 * (n // 4), [max(place - source, 0) for source in sources])
    right = const(u32 * (n // 4), [max(source - place, 0) for source in sources])
    return ((codes.bits(u32 * (n // 4)) << left) >> right).bits(u8 * n) & (1 << place)
