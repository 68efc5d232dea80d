"""Grids: bytes <-> numbers, against libgguf's decoder and ggml's reference quantizers."""

import libgguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq import blocks
from ggq.convert.grids import grid_of, word_grid_of
from tests.block_data import legal_rows
from tests.block_oracle import dequantized

TYPES = [type for type in blocks.all_types() if grid_of(type)]
NAMES = [type.name for type in TYPES]


def test_every_type_with_numbers_on_a_line_has_a_grid() -> None:
    wanted = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS"
    assert set(wanted.split()) <= set(NAMES)
    assert grid_of(blocks.by_name("IQ2_XXS")) is None


@pytest.mark.parametrize("type", TYPES, ids=NAMES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), count=st.integers(1, 4))
def test_packing_undoes_unpacking(type: blocks.BlockType, seed: int, rows: int, count: int) -> None:
    grid = grid_of(type)
    assert grid is not None
    raw = np.random.default_rng(seed).integers(0, 256, (rows, count * type.nbytes), np.uint8)
    parts = grid.unpack(raw)
    np.testing.assert_array_equal(grid.pack(parts), raw)
    assert parts.levels.shape == (rows, count * type.weights)
    assert np.isin(parts.levels, grid.levels).all()
    low, high = grid.scale_range
    assert ((parts.scales >= low) & (parts.scales <= high)).all()
    assert (parts.minima is None) == (not grid.has_minimum)


@pytest.mark.parametrize("type", TYPES, ids=NAMES)
def test_weights_are_what_llama_cpp_decodes(type: blocks.BlockType) -> None:
    grid = grid_of(type)
    assert grid is not None
    raw = legal_rows(type, 7, 1024, np.random.default_rng(1))
    np.testing.assert_array_equal(grid.unpack(raw).weights(), dequantized(type, raw))


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), count=st.integers(1, 3))
def test_words_unpack_to_what_llama_cpp_decodes_and_pack_again(
    name: str, seed: int, rows: int, count: int
) -> None:
    type = blocks.by_name(name)
    grid = word_grid_of(type)
    assert grid is not None
    raw = legal_rows(type, rows, 256 * count, np.random.default_rng(seed))
    parts = grid.unpack(raw)
    np.testing.assert_array_equal(grid.weights(parts), dequantized(type, raw))
    np.testing.assert_array_equal(grid.pack(parts), raw)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q3_K", "Q5_1"])
def test_numbers_written_decode_in_llama_cpp(name: str) -> None:
    type = blocks.by_name(name)
    grid = grid_of(type)
    assert grid is not None
    x = np.random.default_rng(2).standard_normal((3, 512)).astype(np.float32)
    raw = np.frombuffer(libgguf.quantize_rows_raw(type.id, x, *x.shape, None), np.uint8).reshape(
        3, -1
    )
    parts = grid.unpack(raw)
    flipped = parts._replace(
        levels=np.array(grid.levels, np.int8)[::-1][parts.levels - grid.levels[0]]
    )
    np.testing.assert_array_equal(flipped.weights(), dequantized(type, grid.pack(flipped)))
