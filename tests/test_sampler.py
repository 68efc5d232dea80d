"""The sampler: laws of each step, and the whole chain against a naive one written from the book."""

from __future__ import annotations

import math
from collections import Counter, deque

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ggq.errors import FormatError, UsageError
from ggq.runtime.sampler import Sampler, min_p, penalized, softmax, top_k, top_p
from ggq.runtime.sampler_params import SamplerParams

logits_arrays = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=60).map(
    lambda values: np.array(values, np.float32)
)
chains = st.builds(
    SamplerParams,
    seed=st.integers(0, 2**32 - 1),
    temp=st.sampled_from([0.2, 0.8, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 40]),
    top_p=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 0.9]),
    repeat_last_n=st.sampled_from([-1, 0, 4, 64]),
    repeat_penalty=st.sampled_from([1.0, 1.1, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
)


def naive_distribution(
    logits: np.ndarray, history: list[int], p: SamplerParams, slack: float = 0
) -> dict[int, float]:
    """The chain in plain Python: token -> probability; `slack` moves the limits a little."""
    if p.repeat_last_n >= 0:
        history = history[len(history) - min(p.repeat_last_n, len(history)) :]
    x = {i: float(v) for i, v in enumerate(logits)}
    for token, count in Counter(history).items():
        x[token] = x[token] * p.repeat_penalty if x[token] <= 0 else x[token] / p.repeat_penalty
        x[token] -= count * p.frequency_penalty + p.presence_penalty
    ranked = sorted(x, key=lambda token: (-np.float32(x[token]), token))
    if p.top_k > 0:
        ranked = ranked[: p.top_k]
    total, kept = sum(math.exp(x[t]) for t in ranked), []
    reached = 0.0
    for token in ranked:
        kept.append(token)
        reached += math.exp(x[token]) / total
        if p.top_p < 1 and reached >= p.top_p + slack:
            break
    kept = [t for t in kept if math.exp(x[t] - x[kept[0]]) >= p.min_p + slack]
    weights = {t: math.exp(x[t] / p.temp - x[kept[0]] / p.temp) for t in kept}
    return {t: w / sum(weights.values()) for t, w in weights.items()}


@settings(max_examples=300, deadline=None)
@given(logits_arrays, st.lists(st.integers(0, 59), max_size=12), chains)
def test_the_chain_agrees_with_the_naive_one(
    logits: np.ndarray, history: list[int], params: SamplerParams
) -> None:
    history = [token % len(logits) for token in history]
    sampler = Sampler(params)
    for token in history:
        sampler.accept(token)
    ids, probabilities = sampler.candidates(logits)
    wanted = naive_distribution(logits, history, params)
    # a token right at a limit may fall on either side of it
    for slack in (-1e-4, 1e-4):
        assume(naive_distribution(logits, history, params, slack).keys() == wanted.keys())
    assert set(ids.tolist()) == wanted.keys()
    for token, probability in zip(ids.tolist(), probabilities, strict=True):
        assert probability == pytest.approx(wanted[token], rel=1e-3)


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplerParams(seed=7, temp=1.0, top_k=0, top_p=1.0, min_p=0.0))
    counts = np.bincount([sampler.sample(logits) for _ in range(20000)], minlength=4) / 20000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.012)


def test_the_same_seed_gives_the_same_draws_for_ever() -> None:
    logits = np.linspace(-1, 1, 1000, dtype=np.float32)

    def draws(seed: int) -> list[int]:
        sampler = Sampler(SamplerParams(seed=seed))
        return [sampler.sample(logits) for _ in range(8)]

    assert draws(42) == draws(42) == [970, 983, 967, 973, 996, 962, 971, 970]
    assert draws(42) != draws(43)


def test_a_negative_seed_is_drawn_and_told() -> None:
    first, second = Sampler(), Sampler()
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**32


@settings(deadline=None)
@given(logits_arrays)
def test_temperature_zero_takes_the_first_of_the_largest(logits: np.ndarray) -> None:
    assert Sampler(SamplerParams(temp=0)).sample(logits) == int(logits.argmax())


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(-1, 60), st.integers(0, 9))
def test_top_k_is_the_sorted_head(size: int, k: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-30, 30, size).astype(np.float32)
    wanted = sorted(range(size), key=lambda i: (-x[i], i))[: k if k > 0 else size]
    assert top_k(x, k).tolist() == wanted


@settings(deadline=None)
@given(logits_arrays, st.floats(0.01, 0.999))
def test_top_p_keeps_the_shortest_head_that_reaches_p(logits: np.ndarray, p: float) -> None:
    x = np.sort(logits)[::-1].astype(np.float64)
    kept, probabilities = top_p(x, p), softmax(x)
    assert probabilities[: kept - 1].sum() < p + 1e-9
    assert kept == len(x) or probabilities[:kept].sum() > p - 1e-9


def test_min_p_keeps_at_least_the_first() -> None:
    assert min_p(np.array([0.0, -1.0]), 1.0) == 1
    assert min_p(np.array([0.0, math.log(0.06), math.log(0.04)]), 0.05) == 2


def test_penalties_lower_repeated_tokens_on_both_sides_of_zero() -> None:
    params = SamplerParams(repeat_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25)
    x = penalized(np.array([4.0, -4.0, 4.0], np.float32), deque([0, 1, 1]), params)
    assert x.tolist() == [2 - 0.75, -8 - 1.25, 4.0]


def test_penalties_forget_what_is_further_back_than_last_n() -> None:
    sampler = Sampler(SamplerParams(temp=0, repeat_last_n=2, repeat_penalty=10.0))
    logits = np.array([3.0, 2.0, 1.0], np.float32)
    for token in (0, 1, 2):
        sampler.accept(token)
    assert sampler.sample(logits) == 0


def test_a_biased_token_never_comes() -> None:
    logits = np.array([9.0, 1.0], np.float32)
    assert Sampler(SamplerParams(logit_bias={0: -math.inf})).sample(logits) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_damaged_logits_are_refused(bad: float) -> None:
    with pytest.raises(FormatError, match="damaged"):
        Sampler().sample(np.array([0.0, bad], np.float32))


@pytest.mark.parametrize("wrong", [{"repeat_penalty": 0.0}, {"temp": math.nan}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SamplerParams(**wrong)
