"""How far the weights of a file are from the reference's, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ggq.reader import Tensor

_ROWS_WEIGHTS = 1 << 22


def tensor_errors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, float]:
    """Name -> |W - W0| / |W0| (Frobenius) of every matrix both files have in the same shape."""
    return {
        name: _relative(tensor, wanted[name])
        for name, tensor in found.items()
        if len(tensor.shape) > 1 and name in wanted and wanted[name].shape == tensor.shape
    }


def _relative(tensor: Tensor, wanted: Tensor) -> float:
    columns = tensor.shape[-1]
    new, old = (t.data.reshape(-1, t.row_bytes) for t in (tensor, wanted))
    step = max(1, _ROWS_WEIGHTS // columns)
    error = total = 0.0
    for start in range(0, len(new), step):
        w = wanted.type.dequantize(old[start : start + step])
        difference = tensor.type.dequantize(new[start : start + step]) - w
        error += float(np.vdot(difference, difference))
        total += float(np.vdot(w, w))
    return (error / total) ** 0.5 if total else 0.0
