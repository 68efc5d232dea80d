"""What the transforms find: never worse than none, and what their papers say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ggq.blocks import by_name as block
from ggq.convert.sources.open import open_source
from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms import Fold, all_transforms, by_name, source_channels
from ggq.convert.transforms._channels import Axis
from ggq.convert.transforms._objective import readers, rounded
from ggq.convert.transforms._weights import Weights
from ggq.convert.transforms.auto import Auto
from ggq.convert.transforms.awq import total_error
from ggq.errors import ConvertError, UsageError
from tests.models import TINY
from tests.transform_cases import MadeUp, exact_logits, types_of, write_f32

F32 = npt.NDArray[np.float32]
LIKE_BEFORE = 2.0**-16


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(str(TINY["llama3"].write_gguf(tmp_path / "model.gguf")))


def tensor_of(source: Source, name: str) -> F32:
    tensor = next(tensor for tensor in source.tensors if tensor.info.name == name)
    return tensor.floats(0, tensor.n_rows).reshape(tensor.info.shape)


def test_the_folder_lists_them() -> None:
    assert [transform.name for transform in all_transforms()] == [
        "auto", "awq", "permute", "smooth",
    ]  # fmt: skip


@pytest.mark.parametrize("transform", ["awq", "smooth", "permute", "auto"])
@pytest.mark.parametrize("name", ["llama", "qwen3moe", "gemma3"])
def test_what_is_found_preserves_the_logits(transform: str, name: str, tmp_path: Path) -> None:
    source = open_source(str(TINY[name].write_gguf(tmp_path / "model.gguf")))
    types = {n: t for n, t in types_of(source, "Q4_0").items() if "down_exps" not in n}
    fold = by_name(transform).search(MadeUp(source), source, types)
    tokens = TINY[name].prompt(40)
    before = exact_logits(tmp_path / "model.gguf", tokens)
    after = exact_logits(write_f32(fold.apply(source), tmp_path / "after.gguf"), tokens)
    assert np.abs(before - after).max() < LIKE_BEFORE * np.ptp(before)


@pytest.mark.parametrize("type", ["Q4_0", "Q4_1", "IQ4_NL"])
@pytest.mark.parametrize("outlier", [1.0, 20.0])
def test_awq_is_never_worse_on_held_out_tokens(source: Source, type: str, outlier: float) -> None:
    made_up, types = MadeUp(source, outlier), types_of(source, type)
    fold = by_name("awq").search(made_up, source, types)
    for site in source_channels(source).sites:
        found = list(readers(site.readers, Weights(source), made_up, types))
        none = total_error(found, Fold(), held_out=True)
        assert total_error(found, fold, held_out=True) <= none


def test_awq_helps_where_inputs_are_uneven(source: Source) -> None:
    made_up, types = MadeUp(source, 20.0), types_of(source, "Q4_0")
    fold = by_name("awq").search(made_up, source, types)
    site = next(s for s in source_channels(source).sites if s.name == "blk.0.ffn_norm")
    found = list(readers(site.readers, Weights(source), made_up, types))
    assert total_error(found, fold, held_out=True) < 0.9 * total_error(found, Fold(), held_out=True)
    assert any(note.startswith("blk.0.ffn_norm: inputs^") for note in fold.notes)


def test_awq_leaves_what_is_not_quantized(source: Source) -> None:
    types = types_of(source, "F16") | {"blk.1.ffn_down.weight": block("Q4_0")}
    fold = by_name("awq").search(MadeUp(source, 20.0), source, types)
    assert {name for name, _, _ in fold.changes} <= {"blk.1.ffn_down.weight", "blk.1.ffn_up.weight"}


def test_smooth_has_the_ratios_of_the_paper(source: Source) -> None:
    made_up = MadeUp(source)
    fold = by_name("smooth").search(made_up, source, types_of(source, "Q4_0"))
    name = "blk.2.ffn_down.weight"
    x, w = made_up.of(name).inputs, tensor_of(source, name)
    assert x is not None
    wanted = np.sqrt(np.abs(x).max(axis=0)) / np.sqrt(np.abs(w).max(axis=0))
    change = fold.of(name, Axis.COLUMNS)
    assert change is not None
    assert change.factors is not None
    ratios = change.factors / wanted
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    assert np.log(change.factors).mean() == pytest.approx(0, abs=1e-4)


def test_permute_puts_like_columns_side_by_side(source: Source) -> None:
    folded = by_name("permute").search(None, source, {}).apply(source)
    down = np.square(tensor_of(folded, "blk.0.ffn_down.weight")).sum(axis=0)
    assert (np.diff(down) >= 0).all()
    output = np.square(tensor_of(folded, "blk.0.attn_output.weight")).sum(axis=0)
    of_values = output.reshape(2, 2, 16).sum(axis=1)  # two query heads read each value head
    assert (np.diff(of_values, axis=1) >= 0).all()


def test_permute_keeps_no_order_that_does_harm(source: Source) -> None:
    made_up, types = MadeUp(source), types_of(source, "Q4_0")
    fold = by_name("permute").search(made_up, source, types)
    assert 0 < len(fold.notes) < len(source_channels(source).groups)
    for group in source_channels(source).groups:
        if group.name != "residual":
            found = list(readers(group.readers, Weights(source), made_up, types))
            before, after = (total_error(found, f, held_out=True) for f in (Fold(), fold))
            assert after <= before


def test_permute_tries_nothing_without_inputs(source: Source) -> None:
    groups = source_channels(source).groups
    fold = by_name("permute").search(MadeUp(source, samples=False), source, {})
    assert {name for name, _, _ in fold.changes} == {p.tensor for g in groups for p in g.parts}


def test_inputs_are_rounded_as_llama_cpp_rounds_them() -> None:
    x = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    q8_0 = block("Q8_0")  # what meets types of 32 weights; its scale is a half
    stored = q8_0.dequantize(q8_0.quantize(x))
    np.testing.assert_allclose(rounded(x, block("Q4_0")), stored, rtol=1e-3, atol=1e-6)
    q8_k = block("Q8_K")
    stored = q8_k.dequantize(q8_k.quantize(x))
    # A value between two codes may go to either.
    steps = np.abs(x.reshape(3, 2, 256)).max(axis=2).repeat(256, axis=1) / 127
    apart = np.abs(rounded(x, block("Q4_K")) - stored)
    assert (apart < 1.01 * steps).all()
    assert (apart > 0.01 * steps).mean() < 0.02
    assert rounded(x, block("F16")) is x


# -- auto -----------------------------------------------------------------------------------------


def test_auto_takes_what_the_judge_prefers(source: Source) -> None:
    seen: list[Sequence[Fold]] = []

    def judge(folds: Sequence[Fold]) -> list[float]:
        seen.append(folds)
        return [3.0, 2.0, 1.0, 4.0, 1.5]

    fold = Auto().search(MadeUp(source), source, types_of(source, "Q4_0"), judge)
    (folds,) = seen
    assert not folds[0]
    assert fold.changes is folds[2].changes
    assert fold.notes[0].startswith("awq of none x 1.000, permute x 0.667, awq x 0.333")


@pytest.mark.parametrize("costs", [[1.0] * 5, [1.0, 1.2, 0.995, 1.1, 1.0], [0.0] * 5])
def test_auto_takes_none_when_nothing_wins(source: Source, costs: list[float]) -> None:
    fold = Auto().search(MadeUp(source), source, types_of(source, "Q4_0"), lambda folds: costs)
    assert not fold
    assert fold.notes[0].startswith("none of none")


def test_auto_by_itself_is_better_than_none(source: Source) -> None:
    fold = by_name("auto").search(MadeUp(source, 20.0), source, types_of(source, "Q4_0"))
    costs = [float(word) for word in fold.notes[0].replace(",", "").split() if "." in word]
    assert fold
    assert min(costs) < 0.99
    assert costs[0] == 1.0


# -- errors ---------------------------------------------------------------------------------------


def test_an_unknown_transform_is_named() -> None:
    with pytest.raises(UsageError, match="no transform 'spin'; known: none, auto, awq, permute"):
        by_name("spin")


@pytest.mark.parametrize("name", ["awq", "smooth", "auto"])
def test_a_transform_without_its_calibration_says_so(name: str, source: Source) -> None:
    with pytest.raises(ConvertError, match=f"transform {name} needs calibration data"):
        by_name(name).search(None, source, types_of(source, "Q4_0"))


@pytest.mark.parametrize("name", ["awq", "smooth", "auto"])
def test_a_calibration_without_inputs_is_refused(name: str, source: Source) -> None:
    made_up = MadeUp(source, samples=False)
    with pytest.raises(ConvertError, match=r"attn_q.weight: the calibration kept no sampled"):
        by_name(name).search(made_up, source, types_of(source, "Q4_0"))


def test_an_expert_that_saw_no_token_takes_no_part(tmp_path: Path) -> None:
    source = open_source(str(TINY["qwen3moe"].write_gguf(tmp_path / "moe.gguf")))

    class Idle(MadeUp):
        def of(self, name: str, expert: int | None = None, **which: bool):  # type: ignore[no-untyped-def]
            stats = super().of(name, expert, **which)
            if expert != 11 or stats.inputs is None:
                return stats
            import dataclasses

            return dataclasses.replace(
                stats, inputs=stats.inputs[:0], gradients=stats.gradients[:0]
            )

    types = {name: block("Q8_0") for name in types_of(source, "Q8_0") if "down" not in name}
    for name in ("awq", "smooth"):
        fold = by_name(name).search(Idle(source), source, types)
        assert all(math.isfinite(c.factors.sum()) for c in fold.changes.values())
