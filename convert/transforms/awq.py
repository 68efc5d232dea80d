"""Searched scales: channels with large inputs get larger columns, hence finer grids.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization" (arXiv 2306.00978). Here the scales are
inputs^alpha / columns^beta, each pair of exponents is tried on the grid of the tensor's own type
with importance weights, and the inputs are rounded to bytes as programs round them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._base import Calibrated, Transform, Types, source_channels
from ggq.convert.transforms._channels import Site
from ggq.convert.transforms._fold import Fold, scaled
from ggq.convert.transforms._objective import Reader, coarse_parts, readers
from ggq.convert.transforms._scales import Sizes, mean_sizes
from ggq.convert.transforms._weights import Weights
from ggq.convert.writing.workers import side_by_side
from ggq.runtime.cores import usable_cores

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
BETAS = (0.0, 0.25, 0.5)
LARGEST_COLUMNS = 8192  # wider sites fill the memory one by one
STEP = 0.05  # how near the best of these the neighbours are that are tried as well

Exponents = tuple[float, float]


class Awq(Transform):
    """For every site the pair of exponents with the least output error, if any beats none."""

    name = "awq"

    def search(
        self,
        calibration: Calibrated | None,
        source: Source,
        types: Types,
    ) -> Fold:
        """Never worse than none on the tokens held out."""
        given = self.required(calibration)
        weights, sites = Weights(source), source_channels(source).sites

        def found(site: Site) -> Fold:
            matrices = list(readers(site.readers, weights, given, types))
            measured = mean_sizes(coarse_parts(site.readers, types), weights, given)
            return best_scales(site, matrices, measured) if matrices else Fold()

        large = any(site.width > LARGEST_COLUMNS for site in sites)
        fold = Fold()
        for each in side_by_side(found, sites, 1 if large else usable_cores()):
            fold = fold.then(each)
        return fold


def best_scales(site: Site, found: Sequence[Reader], measured: Sizes) -> Fold:
    """The fold of one site; an empty one where no scales are better."""
    fold, (alpha, beta) = best_exponents(site, found, measured)
    before = total_error(found, Fold(), held_out=True)
    after = total_error(found, fold, held_out=True)
    if not after < before:
        return Fold()
    note = f"{site.name}: inputs^{alpha:.2f} / columns^{beta:.2f}, error x {after / before:.3f}"
    return Fold(fold.changes, (note,))


def best_exponents(site: Site, found: Sequence[Reader], measured: Sizes) -> tuple[Fold, Exponents]:
    """The fold of the least error on the tokens that search, and its exponents."""

    def fold_of(exponents: Exponents) -> Fold:
        return scaled(site, measured.scales(*exponents))

    error = _remembered(lambda exponents: total_error(found, fold_of(exponents)))
    alpha, beta = min(((a, b) for a in ALPHAS for b in BETAS), key=error)
    near = [(alpha, beta), (max(0.0, alpha - STEP), beta), (alpha + STEP, beta)]
    best = min(near, key=error)
    return fold_of(best), best


def total_error(found: Sequence[Reader], fold: Fold, *, held_out: bool = False) -> float:
    """Sum of the readers' errors under a fold."""
    return sum(reader.error(fold, held_out=held_out) for reader in found)


def _remembered(error: Callable[[Exponents], float]) -> Callable[[Exponents], float]:
    known: dict[Exponents, float] = {}

    def lookup(exponents: Exponents) -> float:
        if exponents not in known:
            known[exponents] = error(exponents)
        return known[exponents]

    return lookup
