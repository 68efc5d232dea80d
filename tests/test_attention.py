"""Attention against a dense softmax (attention_cases.py) in every form; types of the KV cache."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.errors import UsageError
from ggq.jit import cpu
from ggq.runtime.flags import CACHE_TYPES
from ggq.runtime.kernels.cache_types import TYPES
from tests.models import TINY

ROOT = Path(__file__).parents[1]
LLAMA = replace(TINY["llama"], config=TINY["llama"].config | {"num_hidden_layers": 1})


@pytest.mark.parametrize("form", cpu.forms())
def test_attention_is_that_of_the_definition(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention_cases"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"GGQ_CPU": form},
    )  # fmt: skip
    assert done.stdout == "done\n", done.stdout + done.stderr[-2000:]


def test_the_command_line_knows_every_cache_type() -> None:
    assert list(CACHE_TYPES) == list(TYPES)


def test_cache_types_that_there_are_not(tmp_path: Path) -> None:
    path = LLAMA.write_gguf(tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="no KV cache type 'q9_9'; there are f32, f16"):
        ggq.load(path, cache_type_k="q9_9")
    with pytest.raises(UsageError, match=r"q8_0 needs heads of a multiple of 32 .* have 16"):
        ggq.load(path, cache_type_v="q8_0")
    with ggq.load(path) as model, pytest.raises(UsageError, match="q4_0 needs heads"):
        model.session(8, cache_type_k="q4_0")


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_logits_are_near_those_of_an_exact_cache(name: str, tmp_path: Path) -> None:
    model = replace(LLAMA, config=LLAMA.config | {"head_dim": 64})
    tokens = model.prompt(40)
    tolerance = {"f32": 1e-6, "f16": 1e-3, "bf16": 1e-2, "q8_0": 2e-2, "q4_0": 0.3}[name]
    with ggq.load(model.write_gguf(tmp_path / "model.gguf"), n_threads=2) as loaded:
        exact = loaded.session(64, cache_type_k="f32", cache_type_v="f32").score(tokens)
        session = loaded.session(64, cache_type_k=name, cache_type_v=name)
        scored = session.score(tokens)
        session.rewind(0)
        decoded = np.stack([session.decode(token) for token in tokens])
    for logits in (scored, decoded):
        assert np.abs(logits - exact).max() / np.ptp(exact) < tolerance


def test_32k_positions_take_linear_memory(tmp_path: Path) -> None:
    """Scores of all pairs of positions would be 4 GB a head."""
    long = {"max_position_embeddings": 32768, "hidden_size": 32, "num_attention_heads": 2}
    model = replace(LLAMA, config=LLAMA.config | long)
    tokens = model.prompt(512)
    with ggq.load(model.write_gguf(tmp_path / "model.gguf"), n_threads=1) as loaded:
        session = loaded.session(32768)
        session.prefill(tokens)
        session.decode(tokens[0])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while session.n_past + len(tokens) <= session.n_ctx:
            session.prefill(tokens)
        assert np.isfinite(session.decode(tokens[0])).all()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024  # KB; keys, values and rope of 32k positions are 4 MB
