"""IQ1_S and IQ1_M: 8-dimensional ternary codebook of 2048 words plus a shift."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks import _grids as grids
from ggq.blocks._base import BlockType, fields
from ggq.blocks._codebook import words
from ggq.blocks._view import Blocks
from ggq.jit.isa import target
from ggq.jit.lang import Value, concat, const, f32, i32, load, select, splat, u8, u16

SHIFT = 0.125  # IQ1S_DELTA of llama.cpp ggml-common.h


class IQ1_S(BlockType):
    """w = d * (2 sc + 1) * (word +- 1/8)   (1.5625 bits per weight)

    qh of every 32 weights: four times three upper bits of a word, a 3-bit scale, the shift's sign.
    """

    id = 19
    weights = 256
    layout = fields(("d", "<f2"), ("qs", "u1", (32,)), ("qh", "<u2", (8,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        d = Blocks(self, address).half("d")
        for group in range(8):
            qh = load(u16, address + (34 + 2 * group))
            scale = d * _odd(qh >> 12)
            shift = _shift(qh & 0x8000)
            for k in (0, 2):
                indices = [
                    load(u8, address + (2 + 4 * group + n)).to(u16) | (((qh >> 3 * n) & 7) << 8)
                    for n in (k, k + 1)
                ]
                yield 32 * group + 8 * k, (words(grids.IQ1S, *indices).to(f32) + shift) * scale


class IQ1_M(BlockType):
    """w = d * (2 sc + 1) * (word +- 1/8)   (1.75 bits per weight)

    Every 8 weights: a word of 8 bits in qs and 3 in qh, and the shift's sign; every 16 a 3-bit
    scale. The upper four bits of each scale word together are d.
    """

    id = 29
    weights = 256
    layout = fields(("qs", "u1", (32,)), ("qh", "u1", (16,)), ("scales", "u1", (8,)))

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """16 weights at a time, in the reference's own rounding."""
        scales = [load(u16, address + (48 + 2 * k)) for k in range(4)]
        bits = scales[0] >> 12
        for k in (1, 2, 3):
            bits = bits | ((scales[k] >> 12) << 4 * k)
        d = target().half_to_single(splat(bits, 1))[0]
        for group in range(16):
            qh = load(u8, address + (32 + group)).to(u16)
            first = load(u8, address + 2 * group).to(u16) | ((qh & 0x07) << 8)
            second = load(u8, address + (2 * group + 1)).to(u16) | ((qh & 0x70) << 4)
            shift = concat(*(splat(_shift(qh & sign), 8) for sign in (0x08, 0x80)))
            scale = d * _odd(scales[group // 4] >> 3 * (group % 4))
            yield 16 * group, (words(grids.IQ1S, first, second).to(f32) + shift) * scale


def _odd(scale: Value) -> Value:
    """f32: twice the lower three bits, plus 1."""
    return ((scale & 7).to(i32) * 2 + 1).to(f32)


def _shift(sign: Value) -> Value:
    return select(sign.ne(0), const(f32, -SHIFT), const(f32, SHIFT))
