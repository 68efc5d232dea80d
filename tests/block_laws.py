"""How far a product with blocks may be from the exact one, and a check that it is no further.

Notation: w the decoded weights, x the activations, q the activations as the frame sees them: bytes
with a scale d = max|x| / 127 for every `activation_block` of them, or x itself.

    |w . q - w . x| <= sum |w| d / 2                             rounding to bytes
    |result - w . q| <= (terms + 16) 2^-24 sum max|w| |q|        rounding of singles

A frame that multiplies numbers of 16 bits with tiles rounds w and x to multiples of some h(w) and
h(x), each of 64 numbers: the smallest with which neither a number exceeds 2^15 - 1 nor a sum of
products 2^31 - 1. With the norm |.| of those numbers h = max(max|.| / (2^15 - 1), |.| / 2^15.5),
and the result is further away by

    sum |w| h(x) / 2 + h(w) / 2 |x| + h(w) / 2 h(x) / 2

In the second, `terms` singles are added one after another, and a weight is the sum of two parts,
d * code and a minimum, neither of them larger than twice the largest weight of its block: the 16
stand for the handful of roundings of each part, the fold of the lanes, and that factor.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.blocks._frame import panel_rows
from tests.block_data import legal_rows
from tests.frame_kernels import Place, dequantize, matmat, matvec, ordinary

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
SHORTS = 64  # numbers of 16 bits that share a scale
SUBNORMAL = 1e-30  # activations below this may count as zero


def as_seen(x: F32, block: int) -> tuple[F64, F64]:
    """f32[..., C] -> (q, d / 2) f64[..., C]."""
    if not block:
        return x.astype(np.float64), np.zeros(x.shape)
    blocks = x.reshape(*x.shape[:-1], -1, block)
    peak = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(peak > SUBNORMAL, np.float32(127) / peak, np.float32(0))
    scale = (peak * np.float32(1 / 127)).astype(np.float64)
    codes = np.rint(blocks * inverse).astype(np.float64)
    half = np.broadcast_to(scale / 2, blocks.shape)
    return (codes * scale).reshape(x.shape), half.reshape(x.shape)


def half_steps(numbers: F64) -> F64:
    """f64[R, C] -> f64[R, C]: h / 2 of each number."""
    rows, cols = numbers.shape
    blocks = np.pad(numbers, ((0, 0), (0, -cols % SHORTS))).reshape(rows, -1, SHORTS)
    longest = np.linalg.norm(blocks, axis=-1) / 2**15.5
    steps = np.maximum(np.abs(blocks).max(-1) / (2**15 - 1), longest) * 1.001
    return np.repeat(steps / 2, SHORTS, axis=1)[:, :cols]


def to_shorts(w: F64, x: F64) -> F64:
    """f64[R, C], f64[T, C] -> f64[R, T]: how far off the products of rounded numbers may be."""
    by_w, by_x = half_steps(w), half_steps(x)
    return np.abs(w) @ by_x.T + by_w @ np.abs(x).T + by_w @ by_x.T


def check_products(
    family: BlockType,
    blocks: int,
    tokens: int,
    rng: np.random.Generator,
    place: Place = ordinary,
) -> None:
    """Multiply random legal rows of `blocks` blocks both ways; compare with the exact product."""
    cols = blocks * family.weights
    rows = legal_rows(family, panel_rows(), cols, rng)
    size = rng.choice([1e-3, 1, 50], (tokens, cols), p=[0.1, 0.89, 0.01])
    x = (rng.standard_normal((tokens, cols)) * size).astype(np.float32)
    w = dequantize(family, rows, place).astype(np.float64)

    q, half = as_seen(x, family.frame().activation_block)
    largest = np.abs(w).reshape(len(w), -1, family.weights).max(-1)
    largest = np.repeat(largest, family.weights, axis=1)
    terms = cols // (family.frame().activation_block or 1)
    rounding = (terms + 16) * 2.0**-24 * (largest @ np.abs(q).T) + 1e-35
    to_bytes = np.abs(w) @ half.T * 1.0001

    by_row = np.stack([matvec(family, rows, each, place) for each in x], axis=1)
    by_panel = matmat(family, rows, x, place)
    in_panel = to_shorts(w, q) if family.frame().tile_number == 2 else np.zeros_like(rounding)
    for result, more in (by_row, 0), (by_panel, in_panel):
        assert np.all(np.abs(result - w @ q.T) <= rounding + more)
        assert np.all(np.abs(result - w @ x.T.astype(np.float64)) <= rounding + to_bytes + more)
    assert np.all(np.abs(by_row.astype(np.float64) - by_panel) <= 2 * rounding + in_panel)

    # A result depends on its own row and token only.
    r, t = int(rng.integers(len(rows))), int(rng.integers(tokens))
    assert matvec(family, rows[r : r + 1], x[t], place).tobytes() == by_row[r, t].tobytes()
    alone = matmat(family, rows, x[t : t + 1], place)[:, 0]
    assert alone.tobytes() == by_panel[:, t].tobytes()
