"""Blocks -> singles for any type: the driver of each family's `singles`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ggq.blocks._base import F32, U8
from ggq.jit import Kernel
from ggq.jit.isa import target
from ggq.jit.lang import Value, loop, store

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType


@cache
def dequantize_kernel(family: BlockType) -> Kernel:
    """Kernel(blocks address, weights, out f32 address)."""

    def body(blocks: Value, weights: Value, out: Value) -> None:
        step = family.weights
        if step > 1:
            for i in loop(0, weights, step):
                for first, w in family.singles(blocks + (i // step) * family.nbytes, step):
                    store(out + (i + first) * 4, w)
            return
        whole = weights - weights % target().lanes
        for start, end, width in ((weights * 0, whole, target().lanes), (whole, weights, 1)):
            for i in loop(start, end, width):
                for first, w in family.singles(blocks + i * family.nbytes, width):
                    store(out + (i + first) * 4, w)

    return Kernel(f"dequantize.{family.name}", body, 3)


def dequantize(family: BlockType, rows: U8) -> F32:
    """u8[..., row_bytes] -> f32[..., cols], the bytes of llama.cpp's own dequantization."""
    if rows.shape[-1] % family.nbytes:
        raise ValueError(f"{family} blocks have {family.nbytes} bytes; rows of {rows.shape[-1]}")
    rows = np.ascontiguousarray(rows)
    cols = rows.shape[-1] // family.nbytes * family.weights
    out = np.empty((*rows.shape[:-1], cols), np.float32)
    dequantize_kernel(family)(rows.ctypes.data, out.size, out.ctypes.data)
    return out
