"""Fixtures every test may use: the oracles of tests/oracles.py and the large test models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ggq.convert import cli_defaults
from tests import oracles, standins
from tests.convert_tool import Tool


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf."""
    return oracles.smollm2()


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """gemma-3-270m-q4_k_m.gguf."""
    return oracles.gemma3()


@pytest.fixture(scope="session")
def llama_cpp_tree() -> Path:
    """The llama.cpp source tree, to read data from."""
    return oracles.llama_cpp_tree()


@pytest.fixture(scope="session")
def widened_smollm2(smollm2: Path) -> Path:
    """SmolLM2 with every row a multiple of 256, F32, 764 MB; kept in the cache."""

    def make(target: Path) -> None:
        standins.write_standin(smollm2, target, seed=None)

    return oracles.once("smollm2-widened-f32.gguf", make)


@pytest.fixture(scope="module")
def own_kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the machine code of this module's kernels, which the key does not know."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kernels")
        patch.setenv("GGQ_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """ggq-convert, which here does what llama-quantize does unless options say otherwise."""
    monkeypatch.setattr(cli_defaults, "DEFAULT", cli_defaults.PLAIN)
    return Tool(monkeypatch, capsys)
