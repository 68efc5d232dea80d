"""`exact`: a quantized file gives the logits of the same weights as singles, in every phase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggq
from tests.exact import write_f32

PROMPT = "The whale rose slowly out of the dark water, and every man in the boat held his breath."


@pytest.fixture(params=["smollm2", "gemma3"])
def published(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_exact_logits_are_those_of_singles(published: Path, tmp_path: Path) -> None:
    with ggq.load(published, n_threads=1, exact=True) as model:
        tokens = model.tokenize(PROMPT)
        scored = model.logits(tokens)
        session = model.session(64)
        session.prefill(tokens[:-1])
        decoded = session.decode(tokens[-1])
    with ggq.load(write_f32(published, tmp_path / "f32.gguf"), n_threads=1) as model:
        singles = model.logits(tokens)
    # Sums in another order, which the half precision cache can turn into 2^-11 of a key or value.
    tolerance = 2.0**-11 * float(np.ptp(singles))
    assert np.abs(scored - singles).max() < tolerance
    assert np.abs(decoded - singles[-1]).max() < tolerance


def test_rounded_activations_cost_something(published: Path) -> None:
    with ggq.load(published, n_threads=1) as model:
        tokens = model.tokenize(PROMPT)
        rounded = model.logits(tokens)
    with ggq.load(published, n_threads=1, exact=True) as model:
        exact = model.logits(tokens)
    assert 0 < np.abs(rounded - exact).max() < 0.25 * np.ptp(exact)
