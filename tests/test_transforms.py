"""Transforms: the folded model computes what it did, and folds are what they say they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggq
from ggq.convert.open_source import open_source
from ggq.convert.tensor_source import ComputedTensor, Source
from ggq.convert.transforms import Fold, by_name, ordered, scaled, source_channels
from ggq.convert.transforms._channels import Axis, Group, Part, Site
from ggq.errors import ConvertError, UnsupportedModelError, UsageError
from ggq.spec import ValueType
from tests.models import TINY

F32 = npt.NDArray[np.float32]
TOLERANCE = 2.0**-16  # of the logits' range: sums in another order, factors that round


def written(source: Source, path: Path) -> Path:
    """The source as an F32 file, read in uneven pieces."""
    with ggq.Writer(path, source.metadata, [tensor.info for tensor in source.tensors]) as writer:
        for tensor in source.tensors:
            step = max(1, 7 // tensor.group) * tensor.group
            for start in range(0, tensor.n_rows, step):
                rows = tensor.floats(start, min(start + step, tensor.n_rows))
                writer.write(tensor.info.name, rows.data)
    return path


def logits(path: Path, tokens: list[int]) -> F32:
    kept = {"cache_type_k": "f32", "cache_type_v": "f32"}
    with ggq.load(path, n_threads=1, exact=True, **kept) as model:
        return model.logits(tokens)


def random_fold(source: Source, seed: int, *, scale: bool, move: bool) -> Fold:
    rng = np.random.default_rng(seed)
    channels, fold = source_channels(source), Fold()
    for site in channels.sites if scale else ():
        fold = fold.then(scaled(site, np.exp2(rng.uniform(-3, 3, site.width)).astype(np.float32)))
    for group in channels.groups if move else ():
        places = rng.permuted(np.arange(group.width).reshape(-1, group.run), axis=1)
        fold = fold.then(ordered(group, places.reshape(-1)))
    return fold


def assert_same_function(source: Source, fold: Fold, tokens: list[int], folder: Path) -> None:
    before = logits(written(source, folder / "before.gguf"), tokens)
    after = logits(written(fold.apply(source), folder / "after.gguf"), tokens)
    assert np.abs(before - after).max() < TOLERANCE * np.ptp(before)


@pytest.mark.parametrize("name", TINY)
def test_a_fold_of_everything_preserves_the_logits(name: str, tmp_path: Path) -> None:
    source = open_source(str(TINY[name].write_gguf(tmp_path / "model.gguf")))
    fold = random_fold(source, 1, scale=True, move=True)
    fold = fold.then(random_fold(source, 2, scale=True, move=True))
    changed = {tensor for tensor, _, _ in fold.changes}
    untouched = {t.info.name for t in source.tensors} - changed
    # The keys' side of attention only follows the residual; head norms and rope have no part in it.
    assert all("_q_norm" in n or "_k_norm" in n or "_q.bias" in n or "_k.bias" in n
               or "rope_freqs" in n for n in untouched)  # fmt: skip
    assert_same_function(source, fold, TINY[name].prompt(40), tmp_path)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "qwen3moe"])
def test_permute_preserves_the_logits_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    source = open_source(str(TINY[name].write_hf(tmp_path / "model")))
    fold = by_name("permute").search(None, source, {})
    assert_same_function(source, fold, TINY[name].prompt(40), tmp_path)
