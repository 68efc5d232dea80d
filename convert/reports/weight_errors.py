"""What a file's rounding did to the weights themselves, where no text was run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ggq.convert.mixtures.presets import is_quantized
from ggq.convert.reports.account import TensorAccount
from ggq.convert.sources.tensor_source import Source, TensorSource
from ggq.errors import QuantizeError
from ggq.reader import Reader, Tensor

CHUNK_WEIGHTS = 1 << 19


def with_weight_errors(
    accounts: list[TensorAccount], source: Source, written: Path
) -> list[TensorAccount]:
    """The accounts with errors as shares of the mean square weight, read back from the file.

    `error_before` is that of plain rounding, without any importance; types that need one have none.
    """
    sources = {tensor.info.name: tensor for tensor in source.tensors}
    with Reader(written) as reader:
        return [_filled(each, sources[each.name], reader.tensors[each.name]) for each in accounts]


def _filled(account: TensorAccount, source: TensorSource, tensor: Tensor) -> TensorAccount:
    if not is_quantized(tensor.type) or tensor.type is source.info.type:
        return account
    step = max(1, CHUNK_WEIGHTS // tensor.shape[-1] // source.group) * source.group
    rows = tensor.data.reshape(source.n_rows, -1)
    plain = kept = whole = 0.0
    for start in range(0, source.n_rows, step):
        stop = min(source.n_rows, start + step)
        w = source.floats(start, stop)
        whole += float(np.vdot(w, w))
        error = tensor.type.dequantize(rows[start:stop]) - w
        kept += float(np.vdot(error, error))
        try:
            error = tensor.type.dequantize(tensor.type.quantize(w)) - w
        except QuantizeError:
            plain = np.nan
        else:
            plain += float(np.vdot(error, error))
    before = None if np.isnan(plain) else plain / max(whole, 1e-30)
    return replace(account, error_before=before, error_after=kept / max(whole, 1e-30))
