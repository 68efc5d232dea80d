"""What GGUF fixes: magic, versions, limits, value types, and the size of a tensor.

Source: llama.cpp ggml/include/gguf.h and ggml/src/gguf.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ggq.blocks._base import BlockType

MAGIC = b"GGUF"
VERSION = 3
READABLE_VERSIONS = (2, 3)

ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20

MAX_STRING_BYTES = 1 << 30
MAX_ARRAY_ITEMS = 1 << 30
MAX_NAME_BYTES = 63
MAX_DIMS = 4
MAX_WEIGHTS = (1 << 63) - 1

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS = "split.tensors.count"


class ValueType(IntEnum):
    """Type of a metadata value, with ggml's numbers."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


NUMBERS: dict[ValueType, np.dtype[np.generic]] = {
    ValueType.U8: np.dtype("u1"),
    ValueType.I8: np.dtype("i1"),
    ValueType.U16: np.dtype("<u2"),
    ValueType.I16: np.dtype("<i2"),
    ValueType.U32: np.dtype("<u4"),
    ValueType.I32: np.dtype("<i4"),
    ValueType.F32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.U64: np.dtype("<u8"),
    ValueType.I64: np.dtype("<i8"),
    ValueType.F64: np.dtype("<f8"),
}


def padded(nbytes: int, alignment: int) -> int:
    """`nbytes` rounded up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its data. `shape` is in numpy order: rows first, weights of a row last."""

    name: str
    shape: tuple[int, ...]
    type: BlockType

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row. Raises ValueError if the row is not a whole number of blocks."""
        return self.type.row_bytes(self.shape[-1] if self.shape else 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without padding."""
        return prod(self.shape[:-1]) * self.row_bytes
