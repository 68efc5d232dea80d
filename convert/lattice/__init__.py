"""Weights that already sit on the grid of a tensor type, and the very blocks they came from.

A checkpoint trained for four bits, or one that somebody dequantized, holds only values a type can
decode to. Rounding them again would cost quality; here the scales are found back instead.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.convert.grids import grid_of
from ggq.convert.sources.tensor_source import TensorSource

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

PROBE_ROWS = 4
CHUNK_WEIGHTS = 1 << 19


def recover(x: F32, type: BlockType, *, bfloat: bool = False) -> U8 | None:
    """Rows f32[R, C] as u8[R, row_bytes] that decode to exactly `x`, None where there are none.

    `bfloat`: `x` was rounded to BF16, and so may what is decoded; only types without minima whose
    blocks have one scale are looked for then, as others leave too little to tell scales from.
    """
    from ggq.convert.lattice._affine import affine_parts
    from ggq.convert.lattice._halves import as_bfloat
    from ggq.convert.lattice._symmetric import symmetric_parts

    grid = grid_of(type)
    if grid is None or x.shape[-1] % type.weights or not np.isfinite(x).all():
        return None
    if bfloat and (grid.has_minimum or grid.scale_range != (1, 1)):
        return None
    parts = affine_parts(grid, x) if grid.has_minimum else symmetric_parts(grid, x, bfloat)
    if parts is None:
        return None
    rows = grid.pack(parts)
    decoded = type.dequantize(rows)
    if bfloat:
        decoded = as_bfloat(decoded)
    return rows if np.array_equal(decoded, x) else None


def type_of(tensor: TensorSource, candidates: Iterable[BlockType]) -> BlockType | None:
    """The first candidate on whose grid every weight of a tensor sits."""
    bfloat = tensor.info.type.name == "BF16"
    for type in candidates:
        if tensor.info.shape[-1] % type.weights == 0 and _is_on(tensor, type, bfloat):
            return type
    return None


def _is_on(tensor: TensorSource, type: BlockType, bfloat: bool) -> bool:
    rows, group = tensor.n_rows, tensor.group
    probe = min(rows, max(group, PROBE_ROWS // group * group))
    if _is_constant(x := tensor.floats(0, probe)) or recover(x, type, bfloat=bfloat) is None:
        return False
    step = max(1, CHUNK_WEIGHTS // tensor.info.shape[-1] // group) * group
    return all(
        recover(tensor.floats(start, min(rows, start + step)), type, bfloat=bfloat) is not None
        for start in range(0, rows, step)
    )


def _is_constant(x: F32) -> bool:
    """Whether there is nothing to tell a grid from."""
    return bool((x == x.flat[0]).all())
