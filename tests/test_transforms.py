"""Folds: the folded model computes what it did, and statistics fold along."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.blocks import by_name as block
from ggq.convert.sources.open import open_source
from ggq.convert.sources.tensor_source import ComputedTensor, Source
from ggq.convert.transforms import Fold, by_name, ordered, scaled, source_channels
from ggq.convert.transforms._channels import Axis, Group, Part, Site
from ggq.errors import ConvertError, UnsupportedModelError
from ggq.spec import TensorInfo, ValueType
from tests.models import TINY
from tests.transform_cases import MadeUp, exact_logits, random_fold, write_f32

F32 = npt.NDArray[np.float32]
TOLERANCE = 2.0**-16  # of the logits' range: sums in another order, factors that round
FREE = ("attn_q_norm", "attn_k_norm", "attn_q.bias", "attn_k.bias", "rope_freqs")


def opened(name: str, folder: Path) -> Source:
    return open_source(str(TINY[name].write_gguf(folder / f"{name}.gguf")))


def tensor_of(source: Source, name: str) -> F32:
    tensor = next(tensor for tensor in source.tensors if tensor.info.name == name)
    return tensor.floats(0, tensor.n_rows).reshape(tensor.info.shape)


# -- the function of a model ----------------------------------------------------------------------


def assert_same_function(source: Source, fold: Fold, tokens: list[int], folder: Path) -> None:
    step = 7 if len(source.tensors) < 100 else 4096
    before = exact_logits(write_f32(source, folder / "before.gguf", step), tokens)
    after = exact_logits(write_f32(fold.apply(source), folder / "after.gguf", step), tokens)
    assert np.abs(before - after).max() < TOLERANCE * np.ptp(before)


@pytest.mark.parametrize("name", TINY)
def test_folds_of_everything_preserve_the_logits(name: str, tmp_path: Path) -> None:
    source = opened(name, tmp_path)
    fold = random_fold(source, 1).then(random_fold(source, 2))
    # What turns by position is not touched, and all else is.
    untouched = [t.info.name for t in source.tensors if not fold.touches(t.info.name)]
    assert all(any(part in name for part in FREE) for name in untouched)
    assert_same_function(source, fold, TINY[name].prompt(40), tmp_path)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "qwen3moe"])
def test_a_checkpoint_folds_as_its_file_does(name: str, tmp_path: Path) -> None:
    source = open_source(str(TINY[name].write_hf(tmp_path / "model")))
    fold = by_name("permute").search(None, source, {})
    assert_same_function(source, fold, TINY[name].prompt(40), tmp_path)


@pytest.mark.parametrize("published", ["smollm2", "gemma3"])
def test_published_models_fold_exactly(
    published: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = open_source(str(request.getfixturevalue(published)))
    assert_same_function(source, random_fold(source, 3), list(range(500, 532)), tmp_path)


def test_a_fold_one_factor_short_changes_the_function(tmp_path: Path) -> None:
    source = opened("llama", tmp_path)
    fold = random_fold(source, 4)
    lacking = dict(fold.changes)
    del lacking["blk.1.ffn_up.weight", Axis.ROWS, None]
    with pytest.raises(AssertionError):
        assert_same_function(source, Fold(lacking), TINY["llama"].prompt(40), tmp_path)


# -- what is found in a forward pass --------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_a_tied_embedding_is_never_scaled(name: str, tmp_path: Path) -> None:
    tied = TINY[name].config["tie_word_embeddings"]
    sites = {site.name: site for site in source_channels(opened(name, tmp_path)).sites}
    assert ("output_norm" in sites) == (not tied)
    scaled_tensors = {p.tensor for site in sites.values() for p in (*site.makers, *site.readers)}
    assert "token_embd.weight" not in scaled_tensors


def test_the_router_reads_what_the_experts_read(tmp_path: Path) -> None:
    sites = {site.name: site for site in source_channels(opened("qwen3moe", tmp_path)).sites}
    names = ["gate_inp", "gate_exps", "up_exps"]
    read = [part.tensor for part in sites["blk.0.ffn_norm"].readers]
    assert read == [f"blk.0.ffn_{name}.weight" for name in names]
    assert sites["blk.0.ffn.11"].readers == [
        Part("blk.0.ffn_down_exps.weight", Axis.COLUMNS, matrix=11)
    ]


def test_value_heads_are_shared_by_their_query_heads(tmp_path: Path) -> None:
    sites = {site.name: site for site in source_channels(opened("qwen3", tmp_path)).sites}
    site = sites["blk.2.attn_v"]
    assert site.width == 64
    assert site.readers == [Part("blk.2.attn_output.weight", Axis.COLUMNS, 32, 2)]


def test_norms_behind_a_sublayer_are_not_scaled(tmp_path: Path) -> None:
    sites = source_channels(opened("gemma3", tmp_path)).sites
    assert not any("post" in part.tensor for site in sites for part in site.makers)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    source = opened("llama", tmp_path)
    source.metadata.set("general.architecture", "parrot", ValueType.STRING)
    with pytest.raises(UnsupportedModelError, match="'parrot' is not implemented"):
        source_channels(source)


# -- laws of folds --------------------------------------------------------------------------------

SITE = Site("hidden", 12, [Part("up", Axis.ROWS)], [Part("down", Axis.COLUMNS)])
VALUES = Group(
    "values", 12, 4, [Part("v", Axis.ROWS), Part("o", Axis.COLUMNS, run=4, copies=2)]
)  # fmt: skip


class Matrix(ComputedTensor):
    """A matrix in memory."""

    def __init__(self, name: str, values: F32) -> None:
        super().__init__(name, values)
        self.info = TensorInfo(name, values.shape, block("F32"))


def in_memory(**matrices: F32) -> Source:
    from ggq.metadata import Metadata

    return Source(Metadata("memory"), [Matrix(name, x) for name, x in matrices.items()], [])


def ramp(*shape: int) -> F32:
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


head_orders = st.lists(st.permutations(range(4)), min_size=3, max_size=3).map(
    lambda runs: np.concatenate([np.array(run) + 4 * i for i, run in enumerate(runs)])
)
powers = st.lists(st.integers(-8, 8), min_size=12, max_size=12).map(
    lambda exponents: np.exp2(np.array(exponents, np.float32))
)


@given(order=head_orders)
def test_an_order_and_its_inverse_are_nothing(order: npt.NDArray[np.int64]) -> None:
    source = in_memory(v=ramp(12, 3), o=ramp(2, 24))
    fold = ordered(VALUES, order).then(ordered(VALUES, np.argsort(order)))
    for name in ("v", "o"):
        assert np.array_equal(tensor_of(fold.apply(source), name), tensor_of(source, name))


@given(order=head_orders)
def test_every_query_head_follows_its_value_head(order: npt.NDArray[np.int64]) -> None:
    source = in_memory(v=ramp(12, 3), o=ramp(2, 24))
    folded = ordered(VALUES, order).apply(source)
    v, o = tensor_of(folded, "v"), tensor_of(folded, "o").reshape(2, 3, 2, 4)
    before = tensor_of(source, "o").reshape(2, 3, 2, 4)
    assert np.array_equal(v, tensor_of(source, "v")[order])
    for head in range(3):
        within = order[4 * head : 4 * head + 4] - 4 * head
        assert np.array_equal(o[:, head], before[:, head][..., within])


@given(factors=powers)
def test_factors_and_their_inverses_are_nothing(factors: F32) -> None:
    source = in_memory(up=ramp(12, 3), down=ramp(2, 12))
    fold = scaled(SITE, factors).then(scaled(SITE, 1 / factors))
    for name in ("up", "down"):
        assert np.array_equal(tensor_of(fold.apply(source), name), tensor_of(source, name))


@given(factors=powers, order=head_orders)
def test_two_folds_are_one(factors: F32, order: npt.NDArray[np.int64]) -> None:
    source = in_memory(up=ramp(12, 3), down=ramp(2, 12))
    group = Group("hidden", 12, 12, [*SITE.makers, *SITE.readers])
    one, other = scaled(SITE, factors), ordered(group, order)
    for first, second in ((one, other), (other, one)):
        in_turn = second.apply(first.apply(source))
        at_once = first.then(second).apply(source)
        for name in ("up", "down"):
            assert np.array_equal(tensor_of(in_turn, name), tensor_of(at_once, name))


@given(start=st.integers(0, 11), count=st.integers(1, 12))
def test_some_rows_are_those_of_the_whole(start: int, count: int) -> None:
    source = in_memory(v=ramp(12, 3), o=ramp(2, 24))
    order = np.array([3, 1, 0, 2, 6, 7, 5, 4, 8, 11, 10, 9])
    tensor = ordered(VALUES, order).apply(source).tensors[0]
    stop = min(12, start + count)
    assert np.array_equal(tensor.floats(start, stop), tensor.floats(0, 12)[start:stop])


# -- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_down.weight", "blk.1.attn_output.weight", "blk.2.attn_v.weight"]
)
def test_statistics_fold_as_the_weights_do(name: str, tmp_path: Path) -> None:
    source = opened("llama3", tmp_path)
    fold, made_up = random_fold(source, 5), MadeUp(source)
    w, folded = tensor_of(source, name), tensor_of(fold.apply(source), name)
    before, after = made_up.of(name), fold.calibration(made_up).of(name)
    rows = fold.of(name, Axis.ROWS)
    wanted = before.inputs @ w.T
    wanted = wanted if rows is None else rows.apply(wanted)
    close = {"rtol": 1e-4, "atol": 1e-5 * float(np.abs(wanted).max())}
    np.testing.assert_allclose(after.inputs @ folded.T, wanted, **close)
    # A loss changes as it did: gradients of larger outputs are smaller.
    total, folded_total = ((s.gradients * y).sum() for s, y in ((before, before.inputs @ w.T),
                                                               (after, wanted)))  # fmt: skip
    assert folded_total == pytest.approx(total, rel=1e-3)
    np.testing.assert_allclose(
        after.gram, after.inputs.T @ after.inputs / len(after.inputs), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(after.square, np.diagonal(after.gram), rtol=1e-3)
    squares, _ = fold.calibration(made_up).squares(name)
    np.testing.assert_allclose(squares[0], after.square, rtol=1e-5)


def test_the_importance_of_every_expert_folds_by_itself(tmp_path: Path) -> None:
    source = opened("qwen3moe", tmp_path)
    folded = random_fold(source, 7).calibration(MadeUp(source))
    name = "blk.1.ffn_down_exps.weight"
    squares, counts = folded.squares(name)
    assert len(squares) == len(counts) == 12
    for expert, row in enumerate(squares):
        np.testing.assert_allclose(row, folded.of(name, expert).square, rtol=1e-5)


def test_what_no_fold_changes_is_that_of_the_calibration(tmp_path: Path) -> None:
    source = opened("llama", tmp_path)
    assert random_fold(source, 8).calibration(MadeUp(source)).outlier == 8.0


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("worst", [0.0, -1.0, np.inf, np.nan, 2.0**21])
def test_factors_that_cannot_be_undone_are_refused(worst: float) -> None:
    factors = np.ones(12, np.float32)
    factors[7] = worst
    with pytest.raises(ValueError, match="hidden: wanted 12 factors above 0"):
        scaled(SITE, factors)


@pytest.mark.parametrize(
    "order",
    [np.arange(11), np.zeros(12, np.int64), np.roll(np.arange(12), 1), np.arange(12)[::-1]],
)
def test_what_is_no_order_of_heads_is_refused(order: npt.NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="values: wanted an order of 12 channels that stay in"):
        ordered(VALUES, order)


def test_a_fold_of_another_model_is_refused(tmp_path: Path) -> None:
    fold = random_fold(opened("llama3", tmp_path), 6)
    source = opened("llama", tmp_path)
    source = replace(source, tensors=[t for t in source.tensors if "ffn" not in t.info.name])
    with pytest.raises(ConvertError, match="which this model has not; search it anew"):
        fold.apply(source)
