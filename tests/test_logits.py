"""Logits of F32 files against transformers' (tests/golden/transformers.npz), in every phase."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.jit import cpu
from tests.models import TINY

GOLDEN = Path(__file__).parent / "golden" / "transformers.npz"


# Phases sum in different orders; where that moves a key or value across a rounding boundary of the
# half precision cache (2^-11 of it), the logits move by a small part of that.
PHASE_TOLERANCE = 2.0**-13


def worst(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest error in units of the reference's range."""
    return float(np.abs(ours - reference).max() / np.ptp(reference))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", TINY)
def test_scores_match_transformers(
    name: str, golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    tokens = TINY[name].prompt()
    with ggq.load(TINY[name].write_gguf(tmp_path / "model.gguf"), n_threads=1) as model:
        scored = model.logits(tokens)
        assert scored.shape == golden[name].shape
        assert len(tokens) >= 64
        assert worst(scored, golden[name]) < 1e-3


@pytest.mark.parametrize("name", TINY)
def test_every_phase_and_thread_count_agrees(name: str, tmp_path: Path) -> None:
    path = TINY[name].write_gguf(tmp_path / "model.gguf")
    tokens = TINY[name].prompt()[:33]
    rows = []
    for threads in (1, 3):
        with ggq.load(path, n_threads=threads) as model:
            session = model.session(64)
            scored = session.score(tokens)
            session.rewind(0)
            in_two = [session.prefill(tokens[:20]), session.prefill(tokens[20:])]
            session.rewind(0)
            decoded = np.stack([session.decode(t) for t in tokens])
        assert worst(decoded, scored) < PHASE_TOLERANCE
        assert worst(in_two[0], scored[19]) < PHASE_TOLERANCE
        assert worst(in_two[1], scored[32]) < PHASE_TOLERANCE
        rows.append((scored, decoded, *in_two))
    for one, three in zip(*rows, strict=True):
        assert np.array_equal(one, three), "a result depends on the number of threads"


@pytest.mark.parametrize("name", ["gemma3", "qwen3moe"])
@pytest.mark.parametrize("form", cpu.forms())
def test_every_form_matches_transformers(form: str, name: str, tmp_path: Path) -> None:
    """Head norms, windows, two ropes, and experts, in each form of kernel."""
    path = TINY[name].write_gguf(tmp_path / "model.gguf")
    code = (
        "import sys, numpy as np, ggq; from tests.models import TINY\n"
        f"model = ggq.load({str(path)!r}, n_threads=1)\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, model.logits(TINY[{name!r}].prompt()))\n"
    )
    environment = os.environ | {"GGQ_CPU": form}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path.cwd())
    with np.load(GOLDEN) as arrays:
        assert worst(np.load(tmp_path / "out.npy"), arrays[name]) < 1e-3
