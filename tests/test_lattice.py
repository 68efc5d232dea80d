"""Weights that were dequantized, or trained on a grid, get their very blocks back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq import blocks
from ggq.blocks import by_name
from ggq.convert.grids import grid_of
from ggq.convert.lattice import recover
from ggq.reader import Reader
from tests.block_data import legal_rows
from tests.convert_tool import Tool
from tests.gguf_file import BF16, F32, Key, float_tensor, write_gguf
from tests.models import seeded

ON_GRIDS = [type.name for type in blocks.all_types() if grid_of(type) is not None]
ROUNDED = ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL"]
SEEDS = st.integers(0, 2**32 - 1)


def as_bfloat(x: np.ndarray) -> np.ndarray:
    type = by_name("BF16")
    return type.dequantize(type.quantize(x))


@pytest.mark.parametrize("name", ON_GRIDS)
@given(seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_any_blocks_are_found_back(name: str, seed: int) -> None:
    type = by_name(name)
    x = type.dequantize(legal_rows(type, 3, 512, np.random.default_rng(seed)))
    rows = recover(x, type)
    assert rows is not None
    assert np.array_equal(type.dequantize(rows), x)


@pytest.mark.parametrize("name", ON_GRIDS)
def test_quantized_weights_are_found_back(name: str) -> None:
    type = by_name(name)
    w = seeded(name, (4, 512), 0.02)
    w[1, :300] = 0
    w[2] = 0
    x = type.dequantize(type.quantize(w))
    rows = recover(x, type)
    assert rows is not None
    assert np.array_equal(type.dequantize(rows), x)


@pytest.mark.parametrize("name", ROUNDED)
@given(seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_blocks_rounded_to_bf16_are_found_back(name: str, seed: int) -> None:
    type = by_name(name)
    x = as_bfloat(type.dequantize(legal_rows(type, 3, 256, np.random.default_rng(seed))))
    rows = recover(x, type, bfloat=True)
    assert rows is not None
    assert np.array_equal(as_bfloat(type.dequantize(rows)), x)


@pytest.mark.parametrize("name", ON_GRIDS)
@given(seed=SEEDS)
@settings(max_examples=3, deadline=None)
def test_other_weights_are_not_on_a_grid(name: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 512)).astype(np.float32)
    assert recover(x, by_name(name)) is None


@pytest.mark.parametrize("name", ON_GRIDS)
def test_one_weight_off_is_not_on_the_grid(name: str) -> None:
    type = by_name(name)
    x = type.dequantize(type.quantize(seeded(name, (2, 512), 1.0)))
    x[1, 300] *= np.float32(1.01)
    x[1, 301] += np.float32(1e-4)
    assert recover(x, type) is None


def test_what_is_not_finite_is_on_no_grid() -> None:
    x = np.zeros((1, 256), np.float32)
    x[0, 7] = np.nan
    assert recover(x, by_name("Q4_0")) is None


@pytest.mark.parametrize(("stored", "planned"), [("Q4_0", "q4_k"), ("Q4_K", "q4_k"),
                                                 ("Q3_K", "q6_k")])  # fmt: skip
def test_a_conversion_keeps_what_is_on_a_grid(
    stored: str,
    planned: str,
    tool: Tool,
    tmp_path: Path,
) -> None:
    type = by_name(stored)
    shapes = {"token_embd.weight": (64, 256), "blk.0.attn_q.weight": (256, 256)}
    weights = {name: seeded(name, shape, 0.05) for name, shape in shapes.items()}
    held = type.dequantize(type.quantize(weights["blk.0.attn_q.weight"]))
    weights["blk.0.attn_q.weight"] = held
    kinds = dict.fromkeys(shapes, F32)
    if stored == "Q4_0":
        kinds["blk.0.attn_q.weight"] = BF16
    keys = [
        Key("general.architecture", "str", "llama"),
        Key("llama.block_count", "u32", 1),
        Key("llama.attention.head_count", "u32", 1),
    ]
    specs = [float_tensor(name, w, kinds[name]) for name, w in weights.items()]
    path = write_gguf(tmp_path / "model.gguf", keys, specs)
    out = tmp_path / "out.gguf"
    assert tool(path, out, "--type", planned, "--lattice", "auto", "--quiet") == 0
    with Reader(out) as reader:
        found = reader.tensors["blk.0.attn_q.weight"]
        assert found.type is type
        decoded = found.dequantize()
        assert np.array_equal(as_bfloat(decoded), as_bfloat(held))
        assert stored == "Q4_0" or np.array_equal(decoded, held)
        assert reader.metadata["ggq.lattice.tensors"] == 1
