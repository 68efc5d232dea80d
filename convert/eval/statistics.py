"""Figures of a measurement, each with its standard error, and two files against each other.

Tokens of one chunk resemble each other, so errors come from drawing whole chunks anew with
replacement (block bootstrap; Efron and Tibshirani 1993, chapter 8), or runs of 32 tokens where
there are few chunks. Two files are drawn together, so what is hard in the text cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.convert.eval.divergences import Divergences

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

KLD_QUANTILES = {"kld_median": 0.5, "kld_95": 0.95, "kld_99": 0.99, "kld_99_9": 0.999}
DELTA_QUANTILES = {
    "delta_p_1": 0.01, "delta_p_5": 0.05, "delta_p_25": 0.25, "delta_p_median": 0.5,
    "delta_p_75": 0.75, "delta_p_95": 0.95, "delta_p_99": 0.99,
}  # fmt: skip
DRAWS = 500
_FEW_CHUNKS = 8
_RUN = 32
_SEED = 0


@dataclass(frozen=True)
class Figure:
    """A value and its standard error; a maximum has none."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A figure of file a over that of file b: value, 95 % interval, share of draws below 1."""

    value: float
    low: float
    high: float
    below: float


def figures(d: Divergences, *, with_reference: bool = True) -> dict[str, Figure]:
    """Every figure by name: nats, probabilities and shares of 1."""
    draws = Draws(d)
    nll, its = d.nll.mean(), draws.means(d.nll)
    found = {"perplexity": Figure(float(np.exp(nll)), _error(np.exp(its)))}
    if not with_reference:
        return found
    base = draws.means(d.reference_nll)
    ratio = (d.nll - d.reference_nll).mean()
    squares = d.delta_p**2
    found |= {
        "reference_perplexity": Figure(d.reference_perplexity, _error(np.exp(base))),
        "ln_perplexity_ratio": Figure(float(ratio), _error(its - base)),
        "kld_mean": Figure(d.mean_kld, _error(draws.means(d.kld))),
        **_quantiles(draws, d.kld, KLD_QUANTILES),
        "kld_max": Figure(float(d.kld.max())),
        "same_top": Figure(float(d.same_top.mean()), _error(draws.means(d.same_top))),
        "delta_p_mean": Figure(float(d.delta_p.mean()), _error(draws.means(d.delta_p))),
        "delta_p_rms": Figure(float(squares.mean() ** 0.5), _error(draws.means(squares) ** 0.5)),
        **_quantiles(draws, d.delta_p, DELTA_QUANTILES),
        "delta_p_min": Figure(float(d.delta_p.min())),
        "delta_p_max": Figure(float(d.delta_p.max())),
    }
    return found


def paired(a: Divergences, b: Divergences) -> dict[str, Ratio]:
    """Figures of `a` over those of `b`, both measured on the same tokens against one reference.

    kld_mean, kld_99_9 and perplexity. Raises ValueError if the tokens differ.
    """
    if not np.array_equal(a.chunk, b.chunk) or not np.array_equal(a.reference_nll, b.reference_nll):
        raise ValueError("two measurements of other tokens or references cannot be paired")
    draws, level = Draws(a), [0.999]
    tail_a, tail_b = (float(np.quantile(x.kld, level[0])) for x in (a, b))
    tails_a, tails_b = (draws.quantiles(x.kld, level)[:, 0] for x in (a, b))
    return {
        "kld_mean": _ratio(a.mean_kld, b.mean_kld, draws.means(a.kld), draws.means(b.kld)),
        "kld_99_9": _ratio(tail_a, tail_b, tails_a, tails_b),
        "perplexity": _ratio(
            a.perplexity, b.perplexity, np.exp(draws.means(a.nll)), np.exp(draws.means(b.nll))
        ),
    }


class Draws:
    """The same seeded draws of the tokens of a text, whatever is asked of them."""

    def __init__(self, d: Divergences) -> None:
        self._unit = _units(d.chunk)
        self._sizes = np.bincount(self._unit)
        n = len(self._sizes)
        rng = np.random.default_rng(_SEED)
        self._times = rng.multinomial(n, np.full(n, 1 / n), DRAWS)  # [draw, unit]

    def means(self, x: npt.NDArray[np.float64 | np.bool_]) -> F64:
        """f64 [DRAWS]: means of x [n]."""
        sums = np.bincount(self._unit, x.astype(np.float64))
        return np.asarray((self._times @ sums) / (self._times @ self._sizes))

    def quantiles(self, x: F64, levels: list[float]) -> F64:
        """f64 [DRAWS, levels]: quantiles of x [n]."""
        order = np.argsort(x, kind="stable")
        ranked, unit = x[order], self._unit[order]
        out = np.empty((DRAWS, len(levels)))
        for draw, times in enumerate(self._times):
            behind = np.cumsum(times[unit])
            at = np.searchsorted(behind, np.array(levels) * (behind[-1] - 1), side="right")
            out[draw] = ranked[at]
        return out


def _units(chunk: npt.NDArray[np.int32]) -> I64:
    """The unit of drawing each token belongs to, from 0 on."""
    if chunk.max() + 1 >= _FEW_CHUNKS:
        return chunk.astype(np.int64)
    return np.arange(len(chunk)) // _RUN


def _quantiles(draws: Draws, x: F64, levels: dict[str, float]) -> dict[str, Figure]:
    values = np.quantile(x, list(levels.values()))
    errors = draws.quantiles(x, list(levels.values())).std(axis=0, ddof=1)
    return {
        name: Figure(float(value), float(error))
        for name, value, error in zip(levels, values, errors, strict=True)
    }


def _error(drawn: F64) -> float:
    return float(drawn.std(ddof=1))


def _ratio(a: float, b: float, drawn_a: F64, drawn_b: F64) -> Ratio:
    """Ratio of two figures. Where b is 0 it is 1 if a is so too, else infinite."""
    value, drawn = _over(np.array([a]), np.array([b])), _over(drawn_a, drawn_b)
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Ratio(float(value[0]), float(low), float(high), float((drawn < 1).mean()))


def _over(a: F64, b: F64) -> F64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & (b == 0), 1.0, a / b)
