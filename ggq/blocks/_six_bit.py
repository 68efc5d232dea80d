"""The 12 bytes in which Q4_K and Q5_K keep eight 6-bit scales and eight 6-bit minima.

Bytes 0..3: scales 0..3 in the low six bits; bytes 4..7: minima 0..3; bytes 8..11: the low nibbles
of scales 4..7 and of minima 4..7, whose upper two bits top bytes 0..3 and 4..7.
Source: llama.cpp ggml-quants.c get_scale_min_k4.
"""

from __future__ import annotations

from ggq.blocks._view import Blocks
from ggq.jit.lang import Value, const, i16, load, shuffle, u8, u32


def _all(blocks: Blocks) -> Value:
    """i16[16]: scales 0..7, minima 0..7. The fields d, dmin and scales must open the block."""
    words = load(u32 * 4, blocks.address)
    low = shuffle(words, [1, 3, 2, 3]) >> const(u32 * 4, [0, 0, 0, 4])
    low = low & const(u32 * 4, [0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F])
    top = (shuffle(words, [1, 1, 2, 2]) >> 2) & const(u32 * 4, [0, 0x30303030, 0, 0x30303030])
    return (low | top).bits(u8 * 16).to(i16)


def six_bit_scales(blocks: Blocks) -> Value:
    """i16[8]."""
    return shuffle(_all(blocks), range(8))


def six_bit_minima(blocks: Blocks) -> Value:
    """i16[8]."""
    return shuffle(_all(blocks), range(8, 16))
