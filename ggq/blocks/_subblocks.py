"""What the K-quants share: sub-blocks with a scale and a minimum, whose scales are quantized too.

Source: llama.cpp ggml/src/ggml-quants.c, `quantize_row_q4_K_ref`, `quantize_row_q4_K_impl` and
those of Q2_K and Q5_K.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ggq.blocks._lanes import Block, Lanes, Tile, lanes
from ggq.blocks._search import (
    IMPORTANCE_GRID,
    Grid,
    affine,
    clamp,
    nearest_int,
    positive,
    sum_squares,
    total,
    weigh,
)  # fmt: skip
from ggq.jit.lang import (
    Value,
    f32,
    i32,
    loop,
    maximum,
    minimum,
    select,
    u8,
    var,
    zeros,
)

Weigh = Callable[[Tile, Tile, int], None]


class Parts(NamedTuple):
    """The sub-blocks of a super-block: scales and minima found, and how the search would code."""

    scales: Tile
    drops: Tile  # minima, sign turned
    importance: Tile
    inverse: Tile
    origin: Tile


def search_parts(b: Lanes, size: int, top: int, grid: Grid, weigh_plain: Weigh) -> Parts:
    """Fit sub-blocks of `size` weights with codes 0..top.

    With importance its own grid is searched, weighted by importance * sqrt(mean square + x^2);
    the mean square is that of the super-block, doubled for sub-blocks of 32.
    """
    count = b.family.weights // size
    parts = Parts(*(Tile(count) for _ in Parts._fields))
    w = Tile(size)
    if b.weighted:
        square = sum_squares(b.x, b.family.weights) * (size // 16) / b.family.weights
    for j in loop(count):
        x = b.x.part(j * size)
        if b.weighted:
            b.importance(w, j * size, size)
            weigh(w, x, size, square)
            parts.importance[j] = total(w.__getitem__, size)
        else:
            weigh_plain(w, x, size)
        fit = affine(x, w, size, top, IMPORTANCE_GRID if b.weighted else grid)
        parts.scales[j], parts.drops[j] = fit.scale, -fit.low
        parts.inverse[j], parts.origin[j] = fit.inverse, fit.origin
    return parts


def quantize_scales(
    b: Lanes, scales: Tile, parts: Parts, count: int, top: int
) -> tuple[Value, Tile]:
    """(super-scale, codes i32 as bytes) of the scales or minima of the sub-blocks."""
    if b.weighted:
        return positive(scales, parts.importance, count, top)
    high = var(zeros(lanes()))
    for j in loop(count):
        high.set(maximum(scales[j], high))
    inverse = select(high > 0.0, top / high, 0.0)
    codes = Tile(count, i32)
    for j in loop(count):
        codes[j] = nearest_int(inverse * scales[j]) & 255
    return high / top, codes


def set_codes(block: Block, parts: Parts, steps: Tile, drops: Tile, size: int, top: int) -> None:
    """Make the codes 0..top of one block from the stored scales; by the fit where they are 0."""
    for j in loop(block.weights // size):
        step, drop = steps.lane(block.lane, j), drops.lane(block.lane, j)
        inverse, origin = parts.inverse.lane(block.lane, j), parts.origin.lane(block.lane, j)
        for i in loop(j * size, j * size + size, block.step):
            x = block.x(i)
            code = nearest_int(select(step.eq(0.0), inverse * (x - origin), (x + drop) / step))
            block.set_codes(i, clamp(code, 0, top))


def set_symmetric_codes(block: Block, steps: Tile, inverses: Tile, size: int, top: int) -> None:
    """Make the codes 0..2 top - 1 of one block likewise; 0 where the fit's inverse is 0 too."""
    for j in loop(block.weights // size):
        step, inverse = steps.lane(block.lane, j), inverses.lane(block.lane, j)
        for i in loop(j * size, j * size + size, block.step):
            x = block.x(i)
            code = nearest_int(select(step.eq(0.0), inverse * x, x / step))
            code = clamp(code, -top, top - 1) + top
            block.set_codes(i, select(step.eq(0.0) & inverse.eq(0.0), 0, code))


def put_two_bits(block: Block, field: str, shift: int = 0) -> None:
    """Write two bits of every code: each half of a block has a byte for four codes 32 apart."""
    for i in (0, 128):
        runs = [(block.codes(i + 32 * k, 32) >> shift & 3) << 2 * k for k in range(4)]
        block.put(field, runs[0] | runs[1] | runs[2] | runs[3], i // 4)


def put_one_bit(block: Block, field: str, shift: int) -> None:
    """Write one bit of every code: a byte for eight codes 32 apart."""
    byte = block.codes(0, 32) >> shift & 1
    for k in range(1, 8):
        byte = byte | (block.codes(32 * k, 32) >> shift & 1) << k
    block.put(field, byte)


def put_nibbles(block: Block, field: str) -> None:
    """Write four bits of every code: a byte for two codes 32 apart."""
    for i in loop(0, 256, 64):
        low, high = block.codes(i, 32) & 15, block.codes(i + 32, 32) << 4
        block.put(field, low | high, i // 2)


def put_scales(b: Lanes, parts: Parts, limit: bool) -> tuple[Tile, Tile]:
    """Write d, dmin and 8 scales and minima of 6 bits; (steps, drops) of the parts as stored.

    `limit`: where the C code limits them to 63, which matters only for nonsense.
    """
    d, scales = quantize_scales(b, parts.scales, parts, 8, 63)
    dmin, drops = quantize_scales(b, parts.drops, parts, 8, 63)
    d, dmin = b.put_half("d", d), b.put_half("dmin", dmin)
    raw = [[tile[j] for j in range(8)] for tile in (scales, drops)]
    if limit:
        raw = [[minimum(code, 63) for code in codes] for codes in raw]
    codes = _put_six_bits(b, *raw)
    steps, drops = Tile(8), Tile(8)
    for j, (scale, drop) in enumerate(codes):
        steps[j], drops[j] = d * scale.to(f32), dmin * drop.to(f32)
    return steps, drops


def _put_six_bits(b: Lanes, s: list[Value], m: list[Value]) -> list[tuple[Value, Value]]:
    """Write 8 scales and 8 minima of 6 bits into 12 bytes; the pairs a reader gets from them."""
    packed = s[:4] + m[:4] + [(s[j] & 15) | ((m[j] & 15) << 4) for j in range(4, 8)]
    for j in range(4):
        packed[j] = (packed[j] | (s[j + 4] >> 4 << 6)) & 255
        packed[j + 4] = (packed[j + 4] | (m[j + 4] >> 4 << 6)) & 255
    b.put("scales", Tile.of(*(byte.to(u8) for byte in packed)), 12)
    first = [(packed[j] & 63, packed[j + 4] & 63) for j in range(4)]
    second = [
        (
            (packed[j + 8] & 15) | (packed[j] >> 6 << 4),
            (packed[j + 8] >> 4) | (packed[j + 4] >> 6 << 4),
        )
        for j in range(4)
    ]
    return first + second
