"""Gradients of the backward pass against finite differences, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.convert.calibrate.attention import Attention, AttentionShape
from ggq.convert.calibrate.batch import Batch, Operation, Rows, Watch
from ggq.convert.calibrate.experts import Experts
from ggq.convert.calibrate.head import Head, sampled_gradient
from ggq.convert.calibrate.operations import GATES, AddNorm, Gated, Linear, Norm
from ggq.runtime.arch import RopeScaling
from ggq.runtime.rope import RopeTable
from tests.calibrate_models import WholeModel, whole_model
from tests.models import TINY

Array = npt.NDArray[Any]
SEEDS = st.integers(0, 2**32 - 1)
STEP = 1e-5


def _directional(f: Callable[[float], float], step: float = STEP) -> float:
    """Derivative at 0, by central differences extrapolated to a step of 0."""
    coarse, fine = ((f(h) - f(-h)) / (2 * h) for h in (2 * step, step))
    return (4 * fine - coarse) / 3


def _check(
    operation: Operation, tokens: tuple[int, int], weights: dict[str, Array],
    values: dict[Rows, Array], random: np.random.Generator,
) -> None:  # fmt: skip
    """Gradients along random directions of every value read, for a random sum of those written."""
    out = operation.writes[0]
    sequence = np.zeros(tokens, np.int32)

    def run(changed: dict[Rows, Array]) -> Batch:
        batch = Batch(sequence, weights)
        batch.values = dict(changed)
        operation.forward(batch)
        return batch

    batch = run(values)
    weighting = random.standard_normal(batch.values[out].shape)
    batch.gradients[out] = weighting
    operation.backward(batch)
    for rows, x in values.items():
        direction = random.standard_normal(x.shape)

        def total(h: float, rows: Rows = rows, direction: Array = direction) -> float:
            moved = values | {rows: values[rows] + h * direction}
            return float(np.sum(run(moved).values[out] * weighting))

        expected = _directional(total)
        found = float(np.sum(batch.gradients[rows] * direction))
        scale = float(np.sqrt(np.sum(batch.gradients[rows] ** 2)))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale + 1e-9)


@given(SEEDS, st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_norms(seed: int, tokens: int, cols: int) -> None:
    random = np.random.default_rng(seed)
    x, y = Rows(cols), Rows(cols)
    weights = {"w": random.standard_normal(cols)}
    a, b = random.standard_normal((2, tokens, cols))
    _check(Norm(x, "w", 1e-2, y), (1, tokens), weights, {x: a}, random)
    _check(AddNorm(y, "w", 1e-2, x), (1, tokens), weights, {y: a, x: b}, random)


@given(SEEDS, st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.booleans())
@settings(max_examples=25, deadline=None)
def test_linear(seed: int, tokens: int, cols: int, rows: int, adds: bool) -> None:
    random = np.random.default_rng(seed)
    x, y = Rows(cols), Rows(rows)
    weights = {"m.weight": random.standard_normal((rows, cols)), "b": random.standard_normal(rows)}
    values = {x: random.standard_normal((tokens, cols))}
    if adds:
        values[y] = random.standard_normal((tokens, rows))
    linear = Linear(x, "m", y, adds=adds, bias="b", site="m.weight")
    _check(linear, (1, tokens), weights, values, random)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
@given(SEEDS, st.floats(0.1, 30))
@settings(max_examples=25, deadline=None)
def test_gated(kind: str, seed: int, size: float) -> None:
    random = np.random.default_rng(seed)
    gate, up, out = Rows(5), Rows(5), Rows(5)
    values = {gate: size * random.standard_normal((7, 5)), up: random.standard_normal((7, 5))}
    _check(Gated(GATES[kind], gate, up, out), (1, 7), {}, values, random)


@given(
    seed=SEEDS, sequences=st.integers(1, 2), positions=st.sampled_from([1, 5, 131, 260]),
    groups=st.integers(1, 3), heads=st.integers(1, 2), neox=st.booleans(), normed=st.booleans(),
    window=st.sampled_from([0, 1, 3, 140]), softcap=st.sampled_from([0.0, 2.0]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_attention(
    seed: int, sequences: int, positions: int, groups: int, heads: int, neox: bool, normed: bool,
    window: int, softcap: float,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    dims = 8
    shape = AttentionShape(groups * heads, heads, dims, neox, 0.4, window, softcap, 1e-2)
    table = RopeTable(dims, 100.0, positions, RopeScaling())
    table.fill(positions)
    q, k, v = Rows(groups * heads * dims), Rows(heads * dims), Rows(heads * dims)
    norms = ("q_norm", "k_norm") if normed else ("", "")
    weights = {name: random.standard_normal(dims) for name in ("q_norm", "k_norm")}
    out = Rows(q.cols)
    attention = Attention(q, k, v, out, shape, table.values.astype(np.float64), *norms)
    values = {x: random.standard_normal((sequences * positions, x.cols)) for x in (q, k, v)}
    _check(attention, (sequences, positions), weights, values, random)


@given(SEEDS, st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_experts(seed: int, tokens: int, used: int) -> None:
    random = np.random.default_rng(seed)
    x, router, out = Rows(5), Rows(6), Rows(5)
    weights = {
        f"m_{part}_exps.weight": random.standard_normal((6, *shape))
        for part, shape in (("gate", (4, 5)), ("up", (4, 5)), ("down", (5, 4)))
    }
    # Logits far apart: the choice stays the same within the differences.
    logits = np.argsort(random.random((tokens, 6)), axis=1) + 0.3 * random.random((tokens, 6))
    values = {x: random.standard_normal((tokens, 5)), router: logits}
    values[out] = random.standard_normal((tokens, 5))
    _check(Experts(x, router, "m", used, out), (1, tokens), weights, values, random)


@given(SEEDS, st.integers(2, 2000))
@settings(max_examples=25, deadline=None)
def test_a_sampled_gradient_is_softmax_minus_one_token(seed: int, vocabulary: int) -> None:
    random = np.random.default_rng(seed)
    logits = 3 * random.standard_normal((4, vocabulary))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    left = p - sampled_gradient(logits.copy(), random)
    chosen = left.argmax(axis=1)
    wanted = np.eye(vocabulary)[chosen]
    assert np.abs(left - wanted).max() < 1e-9


def test_tokens_are_drawn_as_likely_as_the_softmax_says() -> None:
    p = np.array([0.5, 0.0, 0.2, 0.3])
    spread = np.zeros(1300)
    spread[[0, 1, 700, 1299]] = p
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(spread), (20000, 1))
    drawn = np.argmin(sampled_gradient(logits, np.random.default_rng(0)), axis=1)
    shares = np.bincount(drawn, minlength=1300)[[0, 1, 700, 1299]] / 20000
    assert np.abs(shares - p).max() < 0.02


class _Keeper(Watch):
    """Keeps inputs, and gradients of all tokens."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Array, Array]] = {}

    def outputs(self, tensor: str, x: Array, squares: Array, gradients: Array, *_: Any) -> None:
        if not _:  # of a stack, only one expert's tokens
            self.found[tensor] = x, gradients
            np.testing.assert_allclose(squares, (gradients**2).mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_gradients_of_whole_models(name: str, tmp_path: Path) -> None:
    model = whole_model(TINY[name].write_gguf(tmp_path / "m.gguf"), 24, np.float64)
    tokens = TINY[name].prompt(24)
    keeper = _Keeper()
    batch = model.batch(tokens, keeper)
    model.forward(batch)
    batch.sampled = np.arange(24)
    head = model.program.sections[-1].operations[-1]
    assert isinstance(head, Head)
    gradient = None
    for section in reversed(model.program.sections[1:]):
        gradient = section.backward(batch, gradient)
    drawn = np.argmin(keeper.found[head.weight][1], axis=1)
    for tensor, (x, gradients) in keeper.found.items():
        if tensor == head.weight and tensor == "token_embd.weight":
            continue  # moving it would move the inputs too
        _matrix_moves_the_loss(model, tokens, drawn, tensor, gradients.T @ x)


def _matrix_moves_the_loss(
    model: WholeModel, tokens: list[int], drawn: Array, tensor: str, gradient: Array
) -> None:
    """Change one matrix along a random direction: -log p of what was drawn follows `gradient`."""
    direction = np.random.default_rng(1).standard_normal(gradient.shape)
    direction /= np.sqrt(gradient.size)

    def loss(h: float) -> float:
        model.changes = {tensor: h * direction}
        logits = model.logits(tokens)
        likeliest = logits.max(axis=1)
        sums = np.log(np.exp(logits - likeliest[:, None]).sum(axis=1)) + likeliest
        return float((sums - logits[np.arange(len(drawn)), drawn]).sum())

    expected = _directional(loss, 1e-3)
    found = float(np.sum(gradient * direction))
    scale = float(np.sqrt(np.sum(gradient**2) / gradient.size))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 * scale)
