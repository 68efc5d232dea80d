"""Q6_K: 16 sub-blocks of 16 six-bit codes, each with an 8-bit signed scale."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.blocks._base import fields
from ggq.blocks._lanes import Lanes, Tile
from ggq.blocks._search import SMALLEST_GROUP, largest, nearest_int, square_weights, symmetric
from ggq.blocks._small import high_nibbles, low_nibbles
from ggq.blocks._subblocks import put_two_bits, set_symmetric_codes
from ggq.blocks._super import SuperBlock
from ggq.blocks._view import Blocks
from ggq.jit.lang import (
    Value,
    concat,
    const,
    f32,
    i8,
    i16,
    load,
    loop,
    minimum,
    select,
    u8,
    u32,
)  # fmt: skip


class Q6_K(SuperBlock):
    """w = d * sc * (q - 32)   (6.5625 bits per weight)"""

    id = 14
    layout = fields(
        ("ql", "u1", (128,)), ("qh", "u1", (64,)), ("scales", "i1", (16,)), ("d", "<f2")
    )
    group = 16
    offset = 32
    uses_importance = True

    def codes(self, blocks: Blocks, width: int) -> Iterator[tuple[list[int], Value]]:
        """Each half: 64 bytes of low nibbles, then 32 bytes with the upper two bits of four."""
        words = width // 4
        for at in range(0, 128, width):
            half, place = at // 64, at % 64
            ql = blocks.bytes("ql", at, width)
            # Both quarters of a half share the bytes of qh, two bits further up in the second.
            quarter = [(place + 4 * k) // 32 for k in range(words)]
            qh = blocks.bytes("qh", 32 * half + place % 32, min(width, 32))
            qh = (concat(qh, qh) if width == 64 else qh).bits(u32 * words)
            low = (qh << const(u32 * words, [4 - 2 * q for q in quarter])) & 0x30303030
            high = (qh >> const(u32 * words, [2 * q for q in quarter])) & 0x30303030
            starts = [128 * half + place + c for c in range(0, width, 16)]
            yield starts, low_nibbles(ql) | low.bits(u8 * width)
            yield [s + 64 for s in starts], high_nibbles(ql) | high.bits(u8 * width)

    def scales(self, blocks: Blocks) -> Value:
        """One signed byte each."""
        return load(i8 * 16, blocks.address + 192).to(i16)

    def quantize_lanes(self, b: Lanes) -> None:
        """Source: llama.cpp ggml-quants.c, quantize_row_q6_K_ref and quantize_row_q6_K_impl."""
        scales, inverses, w = Tile(16), Tile(16), Tile(16)
        for j in loop(16):
            x = b.x.part(16 * j)
            if b.weighted:
                b.importance(w, 16 * j, 16)
            else:
                square_weights(w, x, 16)
            fit = symmetric(x, w, 16, 32)
            b.refuse(fit.scale.ne(fit.scale))
            scales[j], inverses[j] = fit.scale, fit.inverse
        amax, signed = largest(scales, 16)
        some = amax >= SMALLEST_GROUP
        inverse = -128.0 / signed
        d = b.put_half("d", select(some, 1.0 / inverse, 0.0))
        steps, stored = Tile(16), Tile(16, i8)
        for j in loop(16):
            scale = select(some, minimum(nearest_int(inverse * scales[j]), 127), 0)
            stored[j], steps[j] = scale.to(i8), d * scale.to(f32)
            inverses[j] = select(some, inverses[j], 0.0)
        b.put("scales", stored, 16)
        for block in b.each():
            set_symmetric_codes(block, steps, inverses, 16, 32)
            for i in (0, 128):
                q = [block.codes(i + 32 * k, 32) for k in range(4)]
                block.put("ql", (q[0] & 15) | (q[2] << 4), i // 2)
                block.put("ql", (q[1] & 15) | (q[3] << 4), i // 2 + 32)
            put_two_bits(block, "qh", shift=4)
