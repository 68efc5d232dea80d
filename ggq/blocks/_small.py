"""Types of 32 weights a block with one scale, and perhaps one minimum: w = d * (q - offset) + m.

Several blocks are taken at once, so that their codes fill a vector; each lane of the integer dot
product then belongs to one block and is scaled by that block's d times the activations' d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from ggq.blocks._activation import QuantizedBlock
from ggq.blocks._base import BlockType
from ggq.blocks._frame import (
    Frame,
    broadcast,
    int_tile,
    lines,
    padded,
    panel_rows,
    row_addresses,
    stream,
    tile_tokens,
)
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import (
    Value,
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

BLOCK = 32


class SmallBlock(BlockType):
    """A family gives `codes`, `scale`, and where it has one `minimum` and `offset`.

    `codes(blocks)` is the list of code vectors of `blocks.count` blocks: either two vectors, the
    first and the second 16 codes of every block, or one with all 32. u8 codes are lowered by
    `offset`, i8 codes are taken as they are.
    """

    weights = BLOCK
    offset: ClassVar[int] = 0
    signed: ClassVar[bool] = False
    has_minimum: ClassVar[bool] = False

    def codes(self, blocks: Blocks) -> list[Value]:
        """8-bit codes of the blocks."""
        raise NotImplementedError

    def scale(self, blocks: Blocks) -> Value:
        """f32 d of every block."""
        return blocks.half("d")

    def minimum(self, blocks: Blocks) -> Value:
        """f32 m of every block."""
        return blocks.half("m")

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """(first weight, f32 vector) parts of one block, in the reference's own rounding."""
        blocks = Blocks(self, address)
        d = self.scale(blocks)
        lanes = min(target().lanes, 16)
        vectors = self.codes(blocks)
        for k, codes in enumerate(vectors):
            for first in range(0, codes.type.lanes, lanes):
                q = shuffle(codes, range(first, first + lanes)).to(i32)
                w = (q - self.offset if self.offset else q).to(f32) * d
                at = first + k * (BLOCK // len(vectors))
                yield at, w + self.minimum(blocks) if self.has_minimum else w

    def frame(self) -> Frame:
        """The integer frame of the family."""
        return SmallFrame(self)


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

    def _parts(self) -> int:
        """Code vectors of a group: 2 for packed nibbles, 1 where codes are whole bytes."""
        return BLOCK // self.family.layout["qs"].itemsize

    def _group(self) -> int:
        """Blocks of a full step."""
        return target().nbytes * self._parts() // BLOCK or 1

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
        minimum = "m" if self.family.has_minimum else ""
        return f"q32p{self._parts()}o{self._excess()}{minimum}"

    def _dot(self, acc: Value, codes: Value, x: Value) -> Value:
        if codes.type.kind == "i":
            return target().dot_signed(acc, codes, x)
        return target().dot_unsigned(acc, codes, x)

    # -- one vector --------------------------------------------------------------------------
    # A group of g blocks: codes (32 g), then per i32 lane of the accumulator the correction
    # -excess * (sum of its activations) and the scale, then per block the weighted sum.

    def _image(self) -> tuple[int, int, int, int, int]:
        """(bytes per group, offsets of corrections, scales, sums; accumulator lanes per block)."""
        g, per_block = self._group(), 8 // self._parts()
        fixes = BLOCK * g
        scales = fixes + 4 * g * per_block
        sums = scales + 4 * g * per_block
        return padded(sums + 4 * g), fixes, scales, sums, per_block

    def image_bytes(self, cols: int) -> int:
        return -(-cols // (BLOCK * self._group())) * self._image()[0]

    def write_image(self, x: Value, cols: Value, image: Value) -> None:
        g, parts = self._group(), self._parts()
        nbytes, fixes, scales, sums, per_block = self._image()
        width = BLOCK // parts
        for b in loop(cols // BLOCK):
            block = QuantizedBlock(x + b * (4 * BLOCK), BLOCK)
            group, k = image + (b // g) * nbytes, b % g
            fix = zeros(i32 * per_block)
            ones = const(u8 * width, 1)
            for p in range(parts):
                codes = block.codes(p * width, width)
                store(group + k * width + p * width * g, codes)
                fix = target().dot_unsigned(fix, ones, codes)
            store(group + k * (4 * per_block) + fixes, fix * -self._excess(), 4)
            store(group + k * (4 * per_block) + scales, splat(block.scale, per_block), 4)
            total = block.total(0, BLOCK).to(f32) * block.scale
            store(group + k * 4 + sums, total, 4)

    def _groups(self, blocks: Value) -> Iterator[tuple[Value, int]]:
        """(first block, blocks) of every step through a row, in traced control flow.

        What whole groups leave is taken in halves, quarters, ... as the bits of its count say.
        """
        count = self._group()
        whole = blocks - blocks % count
        for b in loop(0, whole, count):
            yield b, count
        at = var(whole)
        while count := count // 2:
            with when((blocks & count).ne(0)):
                yield at.value, count
                at += count

    def dot_row(self, row: Value, cols: Value, images: Sequence[Value]) -> list[Value]:
        g = self._group()
        nbytes, *_, per_block = self._image()
        sums = [_Sums(g * per_block, g) for _ in images]
        for b, count in self._groups(cols // BLOCK):
            k = b % g if count < g else const(i64, 0)
            groups = [image + (b // g) * nbytes for image in images]
            self._step(row, b, count, groups, k, sums)
        if not self.family.has_minimum:
            return [hsum(s.total) for s in sums]
        return [hsum(s.total) + hsum(s.minima) for s in sums]

    def _step(
        self, row: Value, b: Value, count: int, groups: list[Value], k: Value, sums: list[_Sums]
    ) -> None:
        """Blocks b .. b + count of the row times blocks k .. k + count of an image group each."""
        g, parts = self._group(), self._parts()
        _, fixes, scales, weighted, per_block = self._image()
        width, lanes = BLOCK // parts, count * per_block
        view = Blocks(self.family, row + b * self.family.nbytes, count)
        stream(view.address, count * self.family.nbytes)
        codes = [self._as_dot_operand(part)[0] for part in self.family.codes(view)]
        d = self.family.scale(view.repeated(per_block))
        m = self.family.minimum(view.repeated(1)) if self.family.has_minimum else None
        for group, each in zip(groups, sums, strict=True):
            acc = zeros(i32 * lanes)
            if self._excess():
                acc = load(i32 * lanes, group + k * (4 * per_block) + fixes, 4)
            for p, part in enumerate(codes):
                x = load(i8 * (count * width), group + k * width + p * width * g)
                acc = self._dot(acc, part, x)
            scale = d * load(f32 * lanes, group + k * (4 * per_block) + scales, 4)
            whole = each.total.type.lanes
            each.total.set(fma(widen(acc.to(f32), whole), widen(scale, whole), each.total))
            if m is not None:
                s = load(f32 * count, group + k * 4 + weighted, 4)
                each.minima.set(fma(widen(m, g), widen(s, g), each.minima))

    # -- a panel of rows times a tile of tokens ----------------------------------------------
    # Panel, per block: eight dwords of codes for every row, d of every row, m of every row.
    # Tile, per block: the codes of each token; corrections, d, and d * sum of every token.

    def _panel_block(self) -> int:
        return panel_rows() * 4 * (9 + self.family.has_minimum)

    def panel_bytes(self, cols: int) -> int:
        return cols // BLOCK * self._panel_block()

    def pack_panel(self, row: Callable[[int], Value], cols: Value, panel: Value) -> None:
        rows, parts, record = panel_rows(), self._parts(), self._panel_block()
        addresses = row_addresses(row)
        # One group of every row: codes [part][row], d [row], m [row], on their way to [...][row].
        width, per_group = BLOCK * self._group() // parts, 4 * self._group()
        codes = scratch(parts * rows * width)
        scales, minima = scratch(rows * per_group), scratch(rows * per_group)
        for b, count in self._groups(cols // BLOCK):
            for r in loop(rows):
                address = load(i64, addresses + r * 8, 8) + b * self.family.nbytes
                view = Blocks(self.family, address, count, 1)
                for p, part in enumerate(self.family.codes(view)):
                    store(codes + (r + p * rows) * width, self._as_dot_operand(part)[0], 4)
                store(scales + r * per_group, self.family.scale(view), 4)
                if self.family.has_minimum:
                    store(minima + r * per_group, self.family.minimum(view), 4)
            out, per_part = panel + b * record, 8 // parts
            for p in range(parts):
                each = lines(u32 * (count * per_part), codes + p * rows * width, width)
                for j, column in enumerate(columns(each)):
                    slot = j % per_part + p * per_part
                    store(out + (j // per_part * record + slot * 4 * rows), column, 4)
            for k, column in enumerate(columns(lines(f32 * count, scales, per_group))):
                store(out + (k * record + 32 * rows), column, 4)
            if self.family.has_minimum:
                for k, column in enumerate(columns(lines(f32 * count, minima, per_group))):
                    store(out + (k * record + 36 * rows), column, 4)

    def _tile_block(self) -> int:
        return tile_tokens() * 4 * 11

    def tile_bytes(self, cols: int) -> int:
        return cols // BLOCK * self._tile_block()

    def write_tile(self, x: Value, cols: Value, tile: Value, token: Value) -> None:
        stride = 4 * tile_tokens()
        nothing = zeros(i8 * BLOCK)
        with when(x.eq(0)):
            for b in loop(cols // BLOCK):
                first = tile + b * self._tile_block()
                store(first + token * BLOCK, nothing, 4)
                for k in range(8, 11):
                    store(first + k * stride + token * 4, const(i32, 0), 4)
        with when(x.ne(0)):
            for b in loop(cols // BLOCK):
                block = QuantizedBlock(x + b * (4 * BLOCK), BLOCK)
                first = tile + b * self._tile_block()
                store(first + token * BLOCK, block.codes(0, BLOCK), 4)
                out = first + token * 4
                total = block.total(0, BLOCK)
                store(out + 8 * stride, total * -self._excess(), 4)
                store(out + 9 * stride, block.scale, 4)
                store(out + 10 * stride, total.to(f32) * block.scale, 4)

    def multiply(self, panel: Value, tile: Value, cols: Value) -> list[Value]:
        rows, tokens = panel_rows(), tile_tokens()
        sums = [var(zeros(f32 * rows)) for _ in range(tokens)]
        code = (i8 if self.family.signed and target().signed_dot else u8) * (4 * rows)
        for b in loop(cols // BLOCK):
            p, x = panel + b * self._panel_block(), tile + b * self._tile_block()
            if self._excess():
                acc = [int_tile(x, 8, t) for t in range(tokens)]
            else:
                acc = [zeros(i32 * rows)] * tokens
            for k in range(8):
                w = load(code, p + 4 * rows * k, 4)
                for t in range(tokens):
                    four = broadcast(i32, x + (t * BLOCK + 4 * k))
                    acc[t] = self._dot(acc[t], w, four.bits(i8 * (4 * rows)))
            d = load(f32 * rows, p + 32 * rows, 4)
            for t in range(tokens):
                dx = broadcast(f32, x + 4 * (9 * tokens + t))
                sums[t].set(fma(acc[t].to(f32), d * dx, sums[t]))
            if self.family.has_minimum:
                m = load(f32 * rows, p + 36 * rows, 4)
                for t in range(tokens):
                    s = broadcast(f32, x + 4 * (10 * tokens + t))
                    sums[t].set(fma(m, s, sums[t]))
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
