"""Searched scales: channels with large inputs get larger columns, hence finer grids.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization" (arXiv 2306.00978). Here the scales are
inputs^alpha / columns^beta, each pair of exponents is tried on the grid of the tensor's own type
with importance weights, and the inputs are rounded to bytes as programs round them. For a method
with error feedback the inputs may also be what feedback leaves of them, exponents may differ from
block to block, and the method itself rounds what is compared in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ggq.convert.methods import Method
from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._base import Calibrated, Transform, Types, source_channels
from ggq.convert.transforms._channels import Site
from ggq.convert.transforms._feedback import (
    LARGEST_COLUMNS,
    FedReader,
    fed_reader,
    has_feedback,
)
from ggq.convert.transforms._feedback_scales import fed_folds
from ggq.convert.transforms._fold import Fold, scaled
from ggq.convert.transforms._objective import Reader, coarse_parts, readers
from ggq.convert.transforms._scales import Sizes, mean_sizes
from ggq.convert.transforms._weights import Weights
from ggq.runtime.cores import usable_cores

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
BETAS = (0.0, 0.25, 0.5)
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
        *,
        method: Method | None = None,
    ) -> Fold:
        """Never worse than none on the tokens held out."""
        given = self.required(calibration)
        weights, sites = Weights(source), source_channels(source).sites

        def found(site: Site) -> Fold:
            return _site_fold(site, weights, given, types, method)

        large = any(site.width > LARGEST_COLUMNS for site in sites)
        fold = Fold()
        with ThreadPoolExecutor(1 if large else usable_cores()) as pool:
            for each in pool.map(found, sites):
                fold = fold.then(each)
        return fold


def _site_fold(
    site: Site, weights: Weights, calibration: Calibrated, types: Types, method: Method | None
) -> Fold:
    found = list(readers(site.readers, weights, calibration, types))
    if not found:
        return Fold()
    measured = mean_sizes(coarse_parts(site.readers, types), weights, calibration)
    if method is None or not has_feedback(method):
        return best_scales(site, found, measured)
    fed: list[FedReader] = []
    parts = {part.tensor: part for part in site.readers}
    for reader in found:
        expert = reader.matrix if weights.is_stack(reader.tensor) else None
        stats = calibration.of(reader.tensor, expert)
        one = fed_reader(reader, method, stats)
        if one is None:
            return best_scales(site, found, measured)
        fed.append(one)
    folds = fed_folds(site, [(parts[one.reader.tensor], one) for one in fed], measured)
    return _winner(site, fed, [("all alike", best_exponents(site, found, measured)[0]), *folds])


def _winner(site: Site, fed: Sequence[FedReader], named: Sequence[tuple[str, Fold]]) -> Fold:
    """The fold of the least error on the tokens held out, none included."""

    def error(fold: Fold) -> float:
        return sum(one.error(fold) for one in fed)

    before = error(Fold())
    after, name, fold = min(((error(fold), name, fold) for name, fold in named), key=_first)
    if not after < before:
        return Fold()
    return Fold(fold.changes, (f"{site.name}: {name}, error x {after / before:.3f}",))


def _first(found: tuple[float, str, Fold]) -> float:
    return found[0]


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
