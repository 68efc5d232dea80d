"""How rows of weights become blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ggq.convert.methods import Method
    from ggq.convert.mixtures.plan import PlannedTensor

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[Any]


class Encoder:
    """Blocks as llama-quantize makes them."""

    def ready(self, planned: PlannedTensor, start: int, stop: int) -> Rows | None:
        """Rows start .. stop of a tensor where they are there already, else None."""
        return None

    def encode(self, planned: PlannedTensor, x: F32, importance: F32 | None) -> Rows:
        """f32[R, C], importance f32[C] -> the bytes of these rows. Raises QuantizeError."""
        return planned.type.quantize(x, importance, threads=1)


class MethodEncoder(Encoder):
    """Blocks made by a method that needs no calibration, or an importance matrix alone."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def encode(self, planned: PlannedTensor, x: F32, importance: F32 | None) -> Rows:
        from ggq.convert.methods import Needs, Prepared, by_name, covering
        from ggq.convert.methods import Options as MethodOptions

        method = covering(self._method, planned.type)
        while method.needs > Needs.NOTHING and importance is None and method.simpler:
            method = by_name(method.simpler)
        return method.quantize(x, planned.type, Prepared(MethodOptions(), importance), threads=1)


class LatticeEncoder(Encoder):
    """The very blocks of weights that sit on a grid; `inner` makes those of all others."""

    def __init__(self, inner: Encoder, names: frozenset[str]) -> None:
        self._inner = inner
        self._names = names

    def ready(self, planned: PlannedTensor, start: int, stop: int) -> Rows | None:
        return self._inner.ready(planned, start, stop)

    def encode(self, planned: PlannedTensor, x: F32, importance: F32 | None) -> Rows:
        from ggq.convert.lattice import recover

        if planned.name in self._names:
            bfloat = planned.source_type.name == "BF16"
            rows = recover(x, planned.type, bfloat=bfloat)
            assert rows is not None, "was found to be on the grid when the plan was made"
            return rows
        return self._inner.encode(planned, x, importance)
