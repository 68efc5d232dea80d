"""Fixtures every test may use: the oracles of tests/oracles.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import oracles


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
