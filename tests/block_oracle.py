"""What blocks decode to according to others: libgguf (llama.cpp's code), else numpy formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libgguf
import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def dequantized(family: BlockType, rows: U8) -> F32:
    """u8[R, row_bytes] -> f32[R, C]."""
    if family.name in FORMULAS:
        fields: Any = rows.view(family.layout)
        with np.errstate(all="ignore"):
            return np.asarray(FORMULAS[family.name](fields)).reshape(len(rows), -1)
    cols = rows.shape[1] // family.nbytes * family.weights
    data = libgguf.dequantize_rows_raw(family.id, rows, len(rows), cols)
    return np.frombuffer(data, np.float32).reshape(len(rows), cols)


def _number(blocks: Any) -> F32:
    return np.asarray(blocks["x"].astype(np.float32))


def _bf16(blocks: Any) -> F32:
    return (blocks["x"].astype(np.uint32) << 16).view(np.float32)


def _bytes(blocks: Any) -> F32:
    return np.asarray(blocks["d"].astype(np.float32)[..., None] * blocks["qs"].astype(np.float32))


def _q2_0(blocks: Any) -> F32:
    # Source: llama.cpp ggml-quants.c dequantize_row_q2_0; libgguf does not have the type.
    codes = blocks["qs"][..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    levels = codes.reshape(*blocks.shape, 64).astype(np.float32) - 1
    return np.asarray(levels * blocks["d"].astype(np.float32)[..., None])


FORMULAS: dict[str, Callable[[Any], F32]] = {
    "BF16": _bf16,
    "Q2_0": _q2_0,
    "Q8_1": _bytes,
    "Q8_K": _bytes,
    **dict.fromkeys("F32 F16 F64 I8 I16 I32 I64".split(), _number),
}
