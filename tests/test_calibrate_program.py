"""The calibration's forward pass gives the runtime's logits, on every architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggq
from tests.calibrate_models import whole_model
from tests.models import TINY


def _difference(path: Path, tokens: list[int]) -> float:
    with ggq.load(path, n_threads=1, exact=True, cache_type_k="f32", cache_type_v="f32") as model:
        expected = model.logits(tokens)
    found = whole_model(path, len(tokens)).logits(tokens)
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize("name", TINY)
def test_logits_of_tiny_models_are_the_runtimes(name: str, tmp_path: Path) -> None:
    # More than a block of queries, and longer than Gemma's window.
    assert _difference(TINY[name].write_gguf(tmp_path / "m.gguf"), TINY[name].prompt(150)) < 1e-5


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_logits_of_published_models_are_the_runtimes(
    name: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    with ggq.load(path, n_threads=1) as model:
        tokens = model.tokenize("The whale rose slowly out of the dark water, and all held on.")
    assert _difference(path, tokens) < 1e-5
