"""Q2_K to Q6_K: super-blocks of 256 weights whose scales are small integers.

Layouts: llama.cpp ggml/src/ggml-common.h and the dequantize_row functions of ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ggq.convert.grids._grid import Grid, Plane


class Q2_K(Grid):
    """w = d * scale * level - dmin * minimum"""

    group = 16
    levels = tuple(range(4))
    planes = (Plane("qs", 2, 32),)
    scale_range = minimum_range = (0, 15)
    dmin_field, dmin_sign = "dmin", -1

    def read_scales(self, blocks: Any) -> tuple[Any, Any]:
        return blocks["scales"] & 15, blocks["scales"] >> 4

    def write_scales(self, blocks: Any, scales: Any, minima: Any) -> None:
        blocks["scales"] = scales | minima << 4


class Q3_K(Grid):
    """w = d * scale * level"""

    group = 16
    levels = tuple(range(-4, 4))
    planes = (Plane("qs", 2, 32), Plane("hmask", 1, 32))
    scale_range = (-32, 31)

    def read_scales(self, blocks: Any) -> tuple[Any, Any]:
        raw = blocks["scales"].astype(np.int16)
        low, tops = raw[..., :8], raw[..., 8:]
        top = np.concatenate([tops >> 2 * k & 3 for k in range(4)], axis=-1)
        return (np.concatenate([low & 15, low >> 4], axis=-1) | top << 4) - 32, None

    def write_scales(self, blocks: Any, scales: Any, minima: Any) -> None:
        six = scales + 32
        blocks["scales"][..., :8] = six[..., :8] & 15 | (six[..., 8:] & 15) << 4
        pieces = [six[..., 4 * k : 4 * k + 4] >> 4 << 2 * k for k in range(4)]
        blocks["scales"][..., 8:] = pieces[0] | pieces[1] | pieces[2] | pieces[3]


class _SixBit(Grid):
    group = 32
    scale_range = minimum_range = (0, 63)
    dmin_field, dmin_sign = "dmin", -1

    def read_scales(self, blocks: Any) -> tuple[Any, Any]:
        s, m, low = np.split(blocks["scales"].astype(np.int16), 3, axis=-1)
        scales = np.concatenate([s & 63, low & 15 | s >> 6 << 4], axis=-1)
        return scales, np.concatenate([m & 63, low >> 4 | m >> 6 << 4], axis=-1)

    def write_scales(self, blocks: Any, scales: Any, minima: Any) -> None:
        (s, top_s), (m, top_m) = (np.split(x, 2, axis=-1) for x in (scales, minima))
        parts = [s | top_s >> 4 << 6, m | top_m >> 4 << 6, top_s & 15 | (top_m & 15) << 4]
        blocks["scales"] = np.concatenate(parts, axis=-1)


class Q4_K(_SixBit):
    """w = d * scale * level - dmin * minimum"""

    levels = tuple(range(16))
    planes = (Plane("qs", 4, 32),)


class Q5_K(_SixBit):
    """w = d * scale * level - dmin * minimum"""

    levels = tuple(range(32))
    planes = (Plane("qs", 4, 32), Plane("qh", 1, 32))


class Q6_K(Grid):
    """w = d * scale * level"""

    group = 16
    levels = tuple(range(-32, 32))
    planes = (Plane("ql", 4, 64), Plane("qh", 2, 32))
    scale_range = (-128, 127)

    def read_scales(self, blocks: Any) -> tuple[Any, Any]:
        return blocks["scales"], None

    def write_scales(self, blocks: Any, scales: Any, minima: Any) -> None:
        blocks["scales"] = scales
