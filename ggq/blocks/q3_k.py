"""Q3_K: 16 sub-blocks of 16 three-bit codes, each with a 6-bit signed scale."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._lanes import Block, Lanes, Tile
from ggq.blocks._search import (
    clamp,
    descended,
    largest,
    nearest_int,
    sum_squares,
    symmetric,
    total,
    weigh,
)
from ggq.blocks._small import moved_bit
from ggq.blocks._subblocks import put_one_bit, put_two_bits, set_symmetric_codes
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.blocks.q2_k import two_bit_runs
from ggq.jit.lang import (
    Value,
    concat,
    const,
    f32,
    i16,
    i32,
    load,
    loop,
    select,
    shuffle,
    u8,
    u32,
    when,
    zeros,
)


class Q3_K(SuperBlock):
    """w = d * (sc - 32) * (q - 4)   (3.4375 bits per weight)"""

    id = 11
    layout = fields(
        ("hmask", "u1", (32,)), ("qs", "u1", (64,)), ("scales", "u1", (12,)), ("d", "<f2")
    )
    group = 16
    offset = 4
    uses_importance = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Two bits as in Q2_K; bit j of hmask[i] tops weight i of the run of 32 number j."""
        for at in range(0, 64, width):
            qs = blocks.bytes("qs", at, width)
            top = blocks.bytes("hmask", at % 32, min(width, 32))
            top = concat(top, top) if width == 64 else top
            halves = [(at + c) // 32 for c in range(0, width, 4)]
            for run, low in enumerate(two_bit_runs(qs)):
                first = [128 * halves[c // 4] + (at + c) % 32 for c in range(0, width, 16)]
                high = moved_bit(top, [4 * half + run for half in halves], 2)
                yield [f + 32 * run for f in first], low | high

    def scales(self, blocks: Blocks) -> Value:
        """Nibbles of 8 bytes, topped by two-bit pieces of the last 4."""
        words = load(u32 * 4, blocks.address + 92)  # the first is the end of qs
        low = (shuffle(words, [1, 2, 1, 2]) >> const(u32 * 4, [0, 0, 4, 4])) & 0x0F0F0F0F
        top = (shuffle(words, [3] * 4) >> const(u32 * 4, [0, 2, 4, 6])) & 0x03030303
        return (low | (top << 4)).bits(u8 * 16).to(i16) - 32

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q3_K_ref and quantize_row_q3_K_impl."""
        scales, inverses, searched = Tile(16), Tile(16), Tile(256, u8)
        if b.weighted:
            d, stored = _weighted_scales(b, scales, inverses)
        else:
            d, stored = _plain_scales(b, scales, searched)
            for j in loop(16):
                inverses[j] = zeros(inverses.type)
        d = b.put_half("d", d)
        _put_six_bits(b, [stored[j] for j in range(16)])
        steps = Tile(16)
        for j in loop(16):
            steps[j] = d * (stored[j] - 32).to(f32)
        for block in b.each():
            set_symmetric_codes(block, steps, inverses, 16, 4)
            if not b.weighted:
                _restore_codes(block, steps, searched)
            put_two_bits(block, "qs")
            put_one_bit(block, "hmask", shift=2)


def _weighted_scales(b: Lanes, scales: Tile, inverses: Tile) -> tuple[Value, Tile]:
    """(super-scale, codes 0..63 of the scales) by search of both."""
    square = sum_squares(b.x, 256) * 2.0 / 256.0
    w, importance = Tile(16), Tile(16)
    for j in loop(16):
        x = b.x.part(16 * j)
        b.importance(w, 16 * j, 16)
        weigh(w, x, 16, square)
        importance[j] = total(w.__getitem__, 16)
        fit = symmetric(x, w, 16, 4)
        b.refuse(fit.scale.ne(fit.scale))
        scales[j], inverses[j] = fit.scale, fit.inverse
    fit = symmetric(scales, importance, 16, 32)
    codes = Tile(16, i32)
    for j in loop(16):
        code = clamp(nearest_int(fit.inverse * scales[j]), -32, 31) + 32
        codes[j] = select(fit.inverse.eq(0.0), 0, code)
    return fit.scale, codes


def _plain_scales(b: Lanes, scales: Tile, searched: Tile) -> tuple[Value, Tile]:
    """(super-scale, codes 0..63 of the scales) by descent, the scales by rounding."""
    at_once = 4
    for first in loop(0, 16, at_once):
        parts = [b.x.part(16 * (first + k)) for k in range(at_once)]
        for k, (scale, codes) in enumerate(descended(parts, 16, 4)):
            b.refuse(scale.ne(scale))
            scales[first + k] = scale
            for i in loop(16):
                searched[(first + k) * 16 + i] = (codes[i] + 4.0).to(i32).to(u8)
    _, signed = largest(scales, 16)
    inverse = -32.0 / signed
    some = signed.ne(0.0)
    codes = Tile(16, i32)
    for j in loop(16):
        code = clamp(nearest_int(inverse * scales[j]), -32, 31) + 32
        codes[j] = select(some, code, 0)
    return select(some, 1.0 / inverse, 0.0), codes


def _restore_codes(block: Block, steps: Tile, searched: Tile) -> None:
    """Where a stored scale is 0 the codes of the search stay."""
    for j in loop(16):
        with when(steps.lane(block.lane, j).eq(0.0)):
            for i in loop(16 * j, 16 * j + 16):
                block.set_codes(i, searched.lane(block.lane, i))


def _put_six_bits(b: Lanes, codes: list[Value]) -> None:
    """Write 16 scales: nibbles of 8 bytes, topped by two-bit pieces of the last 4."""
    packed = [codes[j] & 15 | (codes[j + 8] & 15) << 4 for j in range(8)]
    for j in range(4):
        pieces = [codes[j + 4 * k] >> 4 << 2 * k for k in range(4)]
        packed.append(pieces[0] | pieces[1] | pieces[2] | pieces[3])
    b.put("scales", Tile.of(*(byte.to(u8) for byte in packed)), 12)
