"""What a tensor type is: a name, ggml's number for it, and the byte layout of one block.

Numbers and layouts: llama.cpp ggml/include/ggml.h `ggml_type` and ggml/src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ggq.blocks._frame import Frame
    from ggq.blocks._lanes import Lanes
    from ggq.jit.lang import Value

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def fields(*members: tuple[Any, ...]) -> np.dtype[Any]:
    """Packed little-endian record of (name, format[, shape]) members: the bytes of one block."""
    return np.dtype(list(members), align=False)


class BlockType:
    """One tensor type. A subclass in a family file registers itself by being there.

    Class attributes to give: `id`, `weights` (weights per block), `layout` (bytes of one block).
    """

    id: ClassVar[int]
    weights: ClassVar[int]
    layout: ClassVar[np.dtype[Any]]
    uses_importance: ClassVar[bool] = False  # whether quantize heeds importance
    needs_importance: ClassVar[bool] = False  # whether it refuses to go without
    uses_row_squares: ClassVar[bool] = False  # whether it then needs the mean square of each row
    loads_lanes: ClassVar[bool] = True  # whether `quantize_lanes` finds the lanes filled

    @property
    def name(self) -> str:
        """ggml's name of the type, for example "Q4_K"."""
        return type(self).__name__

    @property
    def nbytes(self) -> int:
        """Bytes of one block."""
        return int(self.layout.itemsize)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales included."""
        return 8 * self.nbytes / self.weights

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights; `cols` must be a multiple of `weights`."""
        if cols % self.weights:
            raise ValueError(
                f"{self.name} rows hold a multiple of {self.weights} weights, not {cols}"
            )
        return cols // self.weights * self.nbytes

    def dequantize(self, rows: U8) -> F32:
        """u8[..., row_bytes] -> f32[..., cols]."""
        from ggq.blocks._dequantize import dequantize

        return dequantize(self, rows)

    def first_not_finite(self, rows: U8) -> tuple[int, ...] | None:
        """Index of the first weight that decodes to NaN or infinity, None where there is none."""
        bad = np.argwhere(~np.isfinite(self.dequantize(rows)))
        return tuple(int(i) for i in bad[0]) if len(bad) else None

    @property
    def can_quantize(self) -> bool:
        """Whether `quantize` is there for this type."""
        return type(self).quantize_lanes is not BlockType.quantize_lanes

    def quantize(self, x: F32, importance: F32 | None = None, *, threads: int = 0) -> U8:
        """f32[R, C], importance f32[C] -> u8[R, row_bytes], the bytes of x86-64 llama-quantize.

        `importance` is an importance matrix' mean square of each column; types that have no use for
        it ignore it. `threads` 0: all cores; the result does not depend on it. Raises QuantizeError
        with row, column and value for NaN, infinity and what no finite scale can hold.
        """
        from ggq.blocks._quantize import quantize

        return quantize(self, x, importance, threads)

    def quantize_tables(self) -> U8:
        """u8[n]: what `quantize_lanes` looks up, too large for the kernel itself."""
        return np.empty(0, np.uint8)

    # -- traced: what a family file gives, see ggq/jit/lang.py ---------------------------------

    def singles(self, address: Value, step: int) -> Iterator[tuple[int, Value]]:
        """(first weight, f32 vector) parts of the block at `address`, covering all its weights.

        Types of one weight a block get `step` consecutive blocks instead, and give one vector of
        `step` lanes, or a scalar where `step` is 1.
        """
        raise NotImplementedError

    def frame(self) -> Frame:
        """How rows of this type meet activations; by default as singles."""
        from ggq.blocks._float import FloatFrame

        return FloatFrame(self)

    def quantize_lanes(self, b: Lanes) -> None:
        """Quantize the blocks in the lanes of `b`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name
