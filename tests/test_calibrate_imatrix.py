"""Importance matrices of the calibration against llama-imatrix' on the same text and chunks.

tests/golden/make_imatrix.py made those of llama-imatrix, with keys and values cached as singles.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.convert.calibrate.collect import collect
from ggq.convert.calibrate.importance import save_imatrix
from ggq.convert.calibrate.sequences import chunks
from ggq.convert.imatrix import read_imatrix
from ggq.convert.sources.gguf_source import open_gguf
from tests.models import TINY

HERE = Path(__file__).parent
CONTEXT = 64


@pytest.mark.parametrize("file", ["llama3.gguf", "gemma3.gguf", "qwen3moe.gguf", "qwen3moe.dat"])
def test_values_are_those_of_llama_imatrix(file: str, tmp_path: Path) -> None:
    expected = read_imatrix(HERE / "golden" / "imatrix" / file)
    name, _, suffix = file.partition(".")
    path = TINY[name].write_gguf(tmp_path / f"{name}.gguf")
    text = (HERE / "data" / "moby-dick.txt").read_text(encoding="utf-8")
    with ggq.load(path, n_threads=1) as model:
        tokens = chunks(model.tokenize(text, parse_special=False), CONTEXT, None)
    work = tmp_path / "work"
    calibration = collect(open_gguf(path), tokens, work, gradients=False, as_llama=True)
    made = tmp_path / f"imatrix.{suffix}"
    save_imatrix(calibration, made, datasets=expected.datasets, process_output=True)
    found = read_imatrix(made)
    assert found.values.keys() == expected.values.keys()
    assert found.chunk_count == expected.chunk_count == len(tokens)
    for tensor, values in expected.values.items():
        np.testing.assert_allclose(found.values[tensor], values, rtol=1e-4, err_msg=tensor)


def test_counts_are_those_of_llama_imatrix(tmp_path: Path) -> None:
    """Every expert has been called as often."""
    golden = HERE / "golden" / "imatrix" / "qwen3moe.gguf"
    path = TINY["qwen3moe"].write_gguf(tmp_path / "m.gguf")
    text = (HERE / "data" / "moby-dick.txt").read_text(encoding="utf-8")
    with ggq.load(path, n_threads=1) as model:
        tokens = chunks(model.tokenize(text, parse_special=False), CONTEXT, None)
    calibration = collect(open_gguf(path), tokens, tmp_path / "work", gradients=False)
    made = tmp_path / "imatrix.gguf"
    save_imatrix(calibration, made, process_output=True)
    with ggq.open(made) as ours, ggq.open(golden) as theirs:
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, tensor in theirs.tensors.items():
            assert ours.tensors[name].nbytes == tensor.nbytes
            if name.endswith(".counts"):
                assert ours.tensors[name].data.tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize(("name", "differs"), [("llama3", False), ("gemma3", True)])
def test_only_models_with_gelu_are_run_again_for_a_matrix(
    name: str, differs: bool, tmp_path: Path
) -> None:
    source = open_gguf(TINY[name].write_gguf(tmp_path / "m.gguf"))
    tokens = np.arange(20, dtype=np.int32).reshape(2, 10)
    hashes = {
        collect(source, tokens, tmp_path / "work", gradients=False, as_llama=as_llama).hash
        for as_llama in (False, True)
    }
    assert len(hashes) == 1 + differs
