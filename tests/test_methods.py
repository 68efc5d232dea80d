"""Methods: what they cost against each other, hard Hessians, and bytes that others decode."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq import blocks
from ggq.convert.grids import grid_of, word_grid_of
from ggq.convert.methods import Needs, Options, Prepared, all_methods, by_name, covering
from ggq.errors import QuantizeError, UsageError
from tests import weight_strategies
from tests.block_oracle import dequantized
from tests.hessians import Given, correlated, cost, given_inputs, weights

GRID_TYPES = [type for type in blocks.all_types() if grid_of(type)]
WORD_TYPES = [type for type in blocks.all_types() if word_grid_of(type)]
ALL_TYPES = GRID_TYPES + WORD_TYPES
GRID_NAMES = [type.name for type in GRID_TYPES]
U8 = np.ndarray


def quantized(method: str, type: blocks.BlockType, w: np.ndarray, stats: Given | None) -> U8:
    chosen = by_name(method)
    return chosen.quantize(w, type, chosen.prepare(stats), threads=1)


def test_methods_are_found() -> None:
    names = [method.name for method in all_methods()]
    assert {"llama", "rtn", "hqq", "imatrix", "gptq", "guided", "yaqa"} <= set(names)
    assert [by_name(name).name for name in names] == names
    with pytest.raises(UsageError, match=r"method 'best' is not known; known: .*gptq"):
        by_name("best")


@pytest.mark.parametrize("type", ALL_TYPES, ids=lambda type: type.name)
def test_gptq_costs_much_less_than_llama(type: blocks.BlockType) -> None:
    stats, w = given_inputs(correlated(512, 1)), weights(37, 512, 2)
    costs = [
        cost(dequantized(type, quantized(method, type, w, stats)), w, stats.gram)
        for method in ("llama", "gptq")
    ]
    assert costs[1] < 0.8 * costs[0]


@pytest.mark.parametrize("type", GRID_TYPES, ids=GRID_NAMES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_imatrix_never_costs_more_than_llama(type: blocks.BlockType, data: st.DataObject) -> None:
    w = data.draw(weight_strategies.weights(type))
    importance = data.draw(weight_strategies.importances(w.shape[1]))
    rows = [
        by_name(method).quantize(w, type, Prepared(Options(), importance))
        for method in ("imatrix", "llama")
    ]
    costs = [np.sum((dequantized(type, r).astype(np.float64) - w) ** 2 * importance) for r in rows]
    assert costs[0] <= costs[1] * 1.0001 + 1e-30


@pytest.mark.parametrize("type", ALL_TYPES, ids=lambda type: type.name)
def test_imatrix_costs_less_on_ordinary_weights(type: blocks.BlockType) -> None:
    w, stats = weights(40, 512, 20), given_inputs(correlated(512, 21))
    costs = [
        cost(dequantized(type, quantized(method, type, w, stats)), w, np.diag(stats.square))
        for method in ("imatrix", "llama")
    ]
    assert costs[0] < 0.985 * costs[1]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 70])
@pytest.mark.parametrize("name", ["Q4_K", "IQ4_NL", "IQ2_XXS"])
def test_a_slice_of_rows_gets_that_slice_of_bytes(name: str, rows: int) -> None:
    type, stats = blocks.by_name(name), given_inputs(correlated(256, 3))
    w = weights(70, 256, 4)
    method = by_name("gptq")
    prepared = method.prepare(stats)
    whole = method.quantize(w, type, prepared, threads=2)
    part = method.quantize(w[-rows:], type, prepared, threads=1)
    np.testing.assert_array_equal(part, whole[-rows:])


def test_scales_and_levels_are_in_range_and_scales_fitted_to_the_levels() -> None:
    type, stats, w = blocks.by_name("Q4_K"), given_inputs(correlated(512, 5)), weights(20, 512, 6)
    parts = [
        grid_of(type).unpack(quantized(method, type, w, stats)) for method in ("imatrix", "gptq")
    ]
    assert not np.array_equal(parts[0].scales, parts[1].scales)
    assert parts[1].scales.min() >= 0
    assert parts[1].scales.max() <= 63
    assert not np.array_equal(parts[0].levels, parts[1].levels)
    assert parts[1].levels.min() >= 0
    assert parts[1].levels.max() <= 15


def hard_cases() -> dict[str, Given]:
    x = correlated(256, 7)
    dead = x.copy()
    dead[:, 40:90] = 0
    dead[:, 255] = 0
    huge = np.zeros((1, 256), np.float32)
    huge[0, 5:9] = 4e3
    none = np.zeros((256, 256), np.float32)
    return {
        "zero": Given(none, none),
        "rank one": given_inputs(x[:1]),
        "few tokens": given_inputs(x[:9]),
        "dead columns": given_inputs(dead),
        "huge first token": given_inputs(x, huge),
        "tiny": given_inputs(x * 1e-12),
        "large": given_inputs(x * 1e6),
    }


@pytest.mark.parametrize("name", ["Q4_K", "Q2_K", "IQ4_XS", "IQ2_XXS", "IQ3_S"])
@pytest.mark.parametrize("case", hard_cases())
def test_hard_hessians(case: str, name: str) -> None:
    stats, type, w = hard_cases()[case], blocks.by_name(name), weights(19, 256, 8)
    w[3] = 0
    hessian = stats.gram + stats.first
    decoded, simple = (
        dequantized(type, quantized(method, type, w, stats)) for method in ("gptq", "llama")
    )
    assert np.isfinite(decoded).all()
    damped = hessian + 0.1 * np.diagonal(stats.gram).mean() * np.eye(256)
    assert cost(decoded, w, damped) <= 1.0001 * cost(simple, w, damped)
    np.testing.assert_array_equal(decoded[3], 0)


def test_what_is_never_used_is_rounded_by_importance() -> None:
    x = correlated(256, 9)
    x[:, 32:64] = 0
    type, w = blocks.by_name("Q5_0"), weights(16, 256, 10)
    method = by_name("gptq")
    prepared = method.prepare(given_inputs(x))
    decoded = type.dequantize(method.quantize(w, type, prepared))
    plain = type.dequantize(by_name("imatrix").quantize(w, type, prepared))
    np.testing.assert_array_equal(decoded[:, 32:64], plain[:, 32:64])
    assert not np.array_equal(decoded, plain)


def test_more_sweeps_never_cost_more() -> None:
    stats, type, w = given_inputs(correlated(256, 11)), blocks.by_name("Q3_K"), weights(32, 256, 12)
    method = by_name("gptq")
    costs = []
    for sweeps in (0, 1, 3, 8):
        prepared = method.prepare(stats, Options(damping=0.0, sweeps=sweeps))
        decoded = dequantized(type, method.quantize(w, type, prepared))
        costs.append(cost(decoded, w, stats.gram))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_guided_uses_the_weighted_hessian() -> None:
    plain, other = given_inputs(correlated(256, 13)), given_inputs(correlated(256, 14))
    stats = Given(plain.gram, plain.first, other.gram, other.first)
    type, w = blocks.by_name("Q4_K"), weights(16, 256, 15)
    np.testing.assert_array_equal(
        quantized("guided", type, w, stats), quantized("gptq", type, w, other)
    )


def test_guided_without_gradients_is_an_error() -> None:
    with pytest.raises(QuantizeError, match=r"guided needs gradients.*or take method gptq"):
        by_name("guided").prepare(given_inputs(correlated(64, 16)))


def with_outputs(rows: int, blocks: int = 1) -> Given:
    """Statistics of a matrix of 256 columns whose outputs' gradients are correlated."""
    plain = given_inputs(correlated(256, 24))
    size = rows // blocks
    outputs = tuple(given_inputs(correlated(size, 25 + i, 1.6)).gram for i in range(blocks))
    return Given(plain.gram, plain.first, plain.gram, plain.first, outputs)


def two_sided_cost(decoded: np.ndarray, w: np.ndarray, stats: Given) -> float:
    """tr(G E H E^T) in doubles, G in diagonal blocks."""
    e = decoded.astype(np.float64) - w
    parts = np.split(e, len(stats.outputs))
    pairs = zip(stats.outputs, parts, strict=True)
    return sum(float(np.sum((g @ part) * (part @ stats.gram))) for g, part in pairs)


@pytest.mark.parametrize(
    "name, split",
    [("Q4_K", 1), ("Q4_K", 2), ("Q2_K", 1), ("Q8_0", 1), ("IQ4_XS", 1), ("IQ2_XXS", 1)],
)
def test_rows_undo_what_other_rows_did(name: str, split: int) -> None:
    type, w, stats = blocks.by_name(name), weights(160, 256, 26), with_outputs(160, split)
    costs = [
        two_sided_cost(dequantized(type, quantized(method, type, w, stats)), w, stats)
        for method in ("guided", "yaqa")
    ]
    assert costs[1] < 0.8 * costs[0]


def test_rows_that_count_each_for_itself_are_no_worse_than_guided() -> None:
    stats, type, w = with_outputs(70), blocks.by_name("Q4_K"), weights(70, 256, 27)
    alone = replace(stats, outputs=(np.diag(np.arange(70, dtype=np.float32)),))
    costs = [
        cost(dequantized(type, quantized(method, type, w, alone)), w, stats.gram)
        for method in ("guided", "yaqa")
    ]
    assert costs[1] <= 1.0001 * costs[0]


@pytest.mark.parametrize("outputs", [(), (np.zeros((40, 40), np.float32),)])
def test_nothing_known_of_outputs_is_no_error(outputs: tuple[np.ndarray, ...]) -> None:
    stats, type = replace(with_outputs(40), outputs=outputs), blocks.by_name("Q4_K")
    w = weights(40, 256, 28)
    guided, found = (quantized(method, type, w, stats) for method in ("guided", "yaqa"))
    gain = [cost(dequantized(type, rows), w, stats.gram) for rows in (guided, found)]
    assert gain[1] <= 1.0001 * gain[0]


def test_a_slice_of_rows_that_help_each_other_is_rounded_as_guided_does() -> None:
    stats, type, w = with_outputs(64), blocks.by_name("Q4_K"), weights(64, 256, 29)
    np.testing.assert_array_equal(
        quantized("yaqa", type, w[:20], stats), quantized("guided", type, w[:20], stats)
    )


@pytest.mark.parametrize("method", [m.name for m in all_methods() if m.needs > Needs.NOTHING])
def test_methods_with_data_need_it(method: str) -> None:
    with pytest.raises(QuantizeError, match=f"{method} needs calibration data; give --calib"):
        by_name(method).prepare(None)


def test_a_hessian_that_is_not_finite_is_an_error() -> None:
    stats = given_inputs(correlated(64, 17))
    stats.gram[3, 5] = np.nan
    with pytest.raises(QuantizeError, match="must be square and finite"):
        by_name("gptq").prepare(stats)


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)
def test_every_type_llama_can_write_has_a_method(method) -> None:
    for type in blocks.all_types():
        if type.can_quantize:
            assert covering(method, type).covers(type)


@pytest.mark.parametrize(
    "type", [t for t in ALL_TYPES if not t.needs_importance], ids=lambda type: type.name
)
def test_hqq_errors_are_smaller_than_those_of_llama_without_data(type: blocks.BlockType) -> None:
    stats, w = given_inputs(correlated(512, 22)), weights(64, 512, 23)
    costs = [
        cost(dequantized(type, quantized(method, type, w, None)), w, stats.gram)
        for method in ("hqq", "llama")
    ]
    assert costs[0] < costs[1]


@pytest.mark.parametrize("type", GRID_TYPES, ids=GRID_NAMES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_rtn_errors_are_at_most_half_a_step_and_what_rounds_off_the_scales(
    type: blocks.BlockType, data: st.DataObject
) -> None:
    w = data.draw(weight_strategies.weights(type))
    groups = w.reshape(len(w), -1, 256 if type.weights == 256 else 32)
    decoded = dequantized(type, quantized("rtn", type, w, None))
    grid = grid_of(type)
    gap = max(np.diff(grid.levels)) / (grid.levels[-1] - max(grid.levels[0], -grid.levels[-1]))
    span = np.maximum(groups.max(-1), 0) - np.minimum(groups.min(-1), 0)
    reach = span if grid.has_minimum else 2 * np.abs(groups).max(-1)
    coarse = 2 / max(grid.scale_range[1], 15) if type.weights == 256 else 1e-3
    allowed = np.repeat(reach * (gap / 2 + coarse), groups.shape[2], axis=1)
    half_step = 2**-25  # of the smallest half precision numbers
    factors = max(map(abs, grid.levels)) * max(map(abs, grid.scale_range)) + grid.minimum_range[1]
    assert (np.abs(decoded - w) <= allowed.reshape(w.shape) * 1.01 + half_step * factors).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_an_error(bad: float) -> None:
    w = weights(4, 256, 18)
    w[2, 7] = bad
    for method in ("llama", "rtn", "hqq", "imatrix", "gptq", "guided", "yaqa"):
        with pytest.raises(QuantizeError, match="row 2, column 7"):
            quantized(method, blocks.by_name("Q4_K"), w, with_outputs(4))
