"""Scales for readers with error feedback: exponents for a whole site, or for each of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ggq.convert.transforms._channels import Part, Site
from ggq.convert.transforms._feedback import FedReader
from ggq.convert.transforms._fold import Fold, scaled
from ggq.convert.transforms._scales import Sizes

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

ALPHAS = (0.0, 0.15, 0.3, 0.45, 0.6)
BETAS = (0.0, 0.25, 0.5)
Read = tuple[Part, FedReader]


def fed_folds(site: Site, read: Sequence[Read], measured: Sizes) -> list[tuple[str, Fold]]:
    """(name, fold): the best exponents for all channels, and the best for every block of them."""
    left = sum(part.folded(one.remaining) for part, one in read)
    sizes = [measured, Sizes(np.sqrt(np.asarray(left, np.float32)), measured.columns)]
    tried = [each.scales(a, b) for each in sizes for a in ALPHAS for b in BETAS]
    costs = np.stack([_costs(site, read, scales) for scales in tried])
    folds = [("fed alike", scaled(site, tried[int(np.argmin(costs.sum(axis=1)))]))]
    block = max(one.reader.type.weights for _, one in read)
    if site.width % block == 0 and site.width > block and all(p.copies == 1 for p, _ in read):
        folds.append(("fed by blocks", scaled(site, by_blocks(costs, np.stack(tried), block))))
    return folds


def by_blocks(costs: F64, scales: F32, block: int) -> F32:
    """[tried, width] both -> f32[width]: each block's scales of least cost.

    A factor of a whole block changes nothing, so each has the geometric mean 1.
    """
    best = costs.reshape(len(costs), -1, block).sum(axis=2).argmin(axis=0)
    blocks = scales.reshape(len(scales), -1, block)[best, np.arange(len(best))]
    logs = np.log2(blocks, dtype=np.float64)
    found: F32 = np.exp2(logs - logs.mean(axis=1, keepdims=True)).astype(np.float32).reshape(-1)
    return found


def _costs(site: Site, read: Sequence[Read], scales: F32) -> F64:
    """f64[width]: what each channel costs in all its readers."""
    fold = scaled(site, scales)
    total: F64 = np.zeros(site.width)
    for part, one in read:
        total += part.folded(one.costs(fold).astype(np.float32))
    return total
