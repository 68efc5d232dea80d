"""Figures against their definitions, and standard errors against theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.convert.eval import Divergences
from ggq.convert.eval.report import shown
from ggq.convert.eval.statistics import Figure, figures, paired

NORMAL_AT_0 = 0.3989423  # density of the normal distribution
CHUNKS, SCORED = 64, 100


def measured(seed: int = 0, chunks: int = CHUNKS, scored: int = SCORED) -> Divergences:
    rng, n = np.random.default_rng(seed), chunks * scored
    return Divergences(
        chunk=np.repeat(np.arange(chunks, dtype=np.int32), scored),
        nll=3 + rng.normal(size=n),
        reference_nll=2.9 + rng.normal(size=n),
        kld=rng.exponential(size=n),
        delta_p=rng.normal(size=n) * 0.1,
        same_top=rng.random(n) < 0.8,
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), chunks=st.integers(1, 20), scored=st.integers(1, 50))
def test_values_are_those_of_their_definitions(seed: int, chunks: int, scored: int) -> None:
    d = measured(seed, chunks, scored)
    found = {name: figure.value for name, figure in figures(d).items()}
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(d.nll)))
    assert found["reference_perplexity"] == pytest.approx(np.exp(np.mean(d.reference_nll)))
    assert found["ln_perplexity_ratio"] == pytest.approx(np.mean(d.nll) - np.mean(d.reference_nll))
    assert found["kld_mean"] == pytest.approx(sum(d.kld) / len(d.kld))
    assert found["kld_median"] == pytest.approx(np.median(d.kld))
    assert found["kld_99_9"] == pytest.approx(np.percentile(d.kld, 99.9))
    assert found["kld_max"] == max(d.kld)
    assert found["same_top"] == pytest.approx(sum(d.same_top) / len(d.same_top))
    assert found["delta_p_rms"] == pytest.approx(np.sqrt(np.mean(np.square(d.delta_p))))
    assert found["delta_p_95"] == pytest.approx(np.percentile(d.delta_p, 95))


@pytest.mark.parametrize("chunks", [400, 4])
def test_errors_of_independent_tokens_are_those_of_theory(chunks: int) -> None:
    n = 6400
    found = figures(measured(3, chunks, n // chunks))
    wanted = {
        "kld_mean": n**-0.5,
        "ln_perplexity_ratio": (2 / n) ** 0.5,
        "same_top": (0.8 * 0.2 / n) ** 0.5,
        "kld_median": 0.5 / (0.5 * n**0.5),  # sqrt(q (1 - q) / n) / density
        "kld_95": (0.95 * 0.05 / n) ** 0.5 / 0.05,
        "delta_p_median": 0.5 / (NORMAL_AT_0 / 0.1 * n**0.5),
    }
    for name, error in wanted.items():
        assert found[name].error == pytest.approx(error, rel=0.25), name
    assert found["kld_max"].error is None


def test_tokens_of_a_chunk_that_are_alike_count_as_one() -> None:
    d = measured()
    rough = np.repeat(np.random.default_rng(1).exponential(size=CHUNKS), SCORED)
    alike = Divergences(d.chunk, d.nll, d.reference_nll, rough, d.delta_p, d.same_top)
    assert figures(alike)["kld_mean"].error == pytest.approx(rough.std() / CHUNKS**0.5, rel=0.15)


def test_what_is_hard_in_the_text_cancels_between_two_files() -> None:
    b = measured()
    half = Divergences(b.chunk, b.nll, b.reference_nll, b.kld * 0.5, b.delta_p, b.same_top)
    ratios = paired(half, b)
    for name in ("kld_mean", "kld_99_9"):
        ratio = ratios[name]
        assert ratio.low == pytest.approx(0.5)
        assert ratio.value == pytest.approx(0.5)
        assert ratio.high == pytest.approx(0.5)
        assert ratio.below == 1
    assert ratios["perplexity"].value == 1


def test_files_that_differ_by_chance_are_not_told_apart() -> None:
    a, b = measured(5), measured(6)
    a = Divergences(b.chunk, a.nll, b.reference_nll, a.kld, a.delta_p, a.same_top)
    ratio = paired(a, b)["kld_mean"]
    assert ratio.low < 1 < ratio.high
    assert 0.01 < ratio.below < 0.99


def test_nothing_over_nothing_is_one() -> None:
    d = measured()
    none = Divergences(d.chunk, d.nll, d.reference_nll, d.kld * 0, d.delta_p, d.same_top)
    assert paired(none, none)["kld_mean"].value == 1
    assert paired(d, none)["kld_mean"].value == np.inf


def test_measurements_of_other_tokens_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="other tokens"):
        paired(measured(1), measured(2))


def test_texts_are_joined_chunk_behind_chunk() -> None:
    a, b = measured(1, 2, 3), measured(2, 3, 2)
    both = Divergences.joined([a, b])
    assert both.chunk.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert both.kld.tolist() == [*a.kld, *b.kld]


def test_shown_with_as_many_places_as_the_error_has() -> None:
    assert shown(Figure(0.36567, 0.01188)) == "0.366 ± 0.012"
    assert shown(Figure(61.176, 3.058)) == "61.2 ± 3.1"
    assert shown(Figure(0.6118, 0.0306), 100) == "61.2 ± 3.1"
    assert shown(Figure(5.40701)) == "5.407"
    assert shown(Figure(1e-7, 2e-8)) == "1e-07 ± 2e-08"
