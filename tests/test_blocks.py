"""Laws every tensor type obeys, found by walking the registry: a new type is tested unasked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import libgguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq import blocks
from ggq.blocks import BlockType, _grids
from ggq.blocks._frame import panel_rows, tile_tokens
from ggq.blocks._super import SuperFrame
from ggq.errors import UnknownTypeError
from ggq.jit.lang import Value, store, trace
from tests.block_data import legal_rows
from tests.block_laws import check_products
from tests.block_oracle import dequantized
from tests.frame_kernels import matmat, matvec, matvecs
from tests.kernel_calls import call

every_type = pytest.mark.parametrize("family", blocks.all_types(), ids=str)
seeds = st.integers(0, 2**32 - 1)


def laws(test: Callable[..., Any]) -> Any:
    return every_type(settings(max_examples=100, deadline=None)(test))


def counts(family: BlockType, most: int = 9) -> st.SearchStrategy[int]:
    """Blocks of a row: more of the small ones, so that every tail of a vector occurs."""
    return st.integers(1, {1: 150, 32: most}.get(family.weights, 3))


# -- the registry ---------------------------------------------------------------------------------


def test_every_type_of_ggml_is_there() -> None:
    ours = {t.id: (t.name, t.weights, t.nbytes) for t in blocks.all_types()}
    ours.pop(42)  # Q2_0 is newer than the package
    oracle = {t.value: (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType}
    oracle[9] = ("Q8_1", 32, libgguf.type_size(9))  # gguf takes its two halves for singles
    assert ours == oracle


@every_type
def test_found_by_number_and_by_name_in_any_case(family: BlockType) -> None:
    assert blocks.by_id(family.id) is family
    assert blocks.by_name(family.name) is family
    assert blocks.by_name(family.name.lower()) is family
    assert str(family) == family.name


def test_unknown_types_are_named_with_those_that_are_known() -> None:
    with pytest.raises(UnknownTypeError, match=r"tensor type 4 is not known.*Q4_0"):
        blocks.by_id(4)
    with pytest.raises(UnknownTypeError, match=r"tensor type 'q4_2' is not known.*Q4_0"):
        blocks.by_name("q4_2")


@laws
@given(data=st.data())
def test_sizes(family: BlockType, data: st.DataObject) -> None:
    cols = data.draw(st.integers(0, 1 << 40))
    if cols % family.weights:
        with pytest.raises(ValueError, match=f"multiple of {family.weights} weights, not {cols}"):
            family.row_bytes(cols)
    else:
        assert family.row_bytes(cols) * family.weights == cols * family.nbytes
    assert family.bits_per_weight * family.weights == 8 * family.nbytes


@every_type
def test_rows_that_are_no_whole_blocks_are_refused(family: BlockType) -> None:
    if family.nbytes > 1:
        with pytest.raises(ValueError, match=f"{family} blocks have {family.nbytes} bytes"):
            family.dequantize(np.zeros((2, family.nbytes + 1), np.uint8))


# -- decoding -------------------------------------------------------------------------------------


@laws
@given(data=st.data(), seed=seeds)
def test_legal_blocks_decode_to_the_reference_bytes(
    family: BlockType, data: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cols = data.draw(counts(family)) * family.weights
    rows = legal_rows(family, data.draw(st.integers(1, 3)), cols, rng)
    weights = family.dequantize(rows)
    assert weights.shape == (len(rows), cols)
    assert weights.tobytes() == dequantized(family, rows).tobytes()
    assert family.first_not_finite(rows) is None


@laws
@given(data=st.data())
def test_any_bytes_decode_as_the_reference_does_and_what_is_not_finite_is_reported(
    family: BlockType, data: st.DataObject
) -> None:
    one = st.binary(min_size=family.nbytes, max_size=family.nbytes)
    rows = np.array([np.frombuffer(data.draw(one), np.uint8) for _ in range(2)])
    with np.errstate(all="ignore"):
        wanted = dequantized(family, rows)
    weights = family.dequantize(rows)
    np.testing.assert_array_equal(weights, wanted)
    finite = np.isfinite(wanted)
    assert weights[finite].tobytes() == wanted[finite].tobytes()
    bad = np.argwhere(~finite)
    assert family.first_not_finite(rows) == (tuple(bad[0]) if len(bad) else None)


@every_type
def test_zero_bytes_are_zero_weights(family: BlockType) -> None:
    assert not family.dequantize(np.zeros((2, 3 * family.nbytes), np.uint8)).any()


@every_type
def test_dimensions_in_front_are_kept(family: BlockType) -> None:
    assert family.dequantize(np.zeros((2, 0, family.nbytes), np.uint8)).shape[:2] == (2, 0)
    rows = legal_rows(family, 6, family.weights, np.random.default_rng(1))
    cube = family.dequantize(rows.reshape(2, 3, -1))
    assert cube.shape == (2, 3, family.weights)
    assert cube.tobytes() == family.dequantize(rows).tobytes()
    backwards = family.dequantize(rows[::-1])
    assert backwards.tobytes() == cube.reshape(6, -1)[::-1].tobytes()


@pytest.mark.parametrize("name", ["iq1s", "iq2xxs", "iq2xs", "iq2s", "iq3xxs", "iq3s"])
def test_codebooks_are_those_of_llama_cpp(name: str, llama_cpp_tree: Path) -> None:
    header = (llama_cpp_tree / "ggml/src/ggml-common.h").read_text()
    body = re.search(
        rf"GGML_TABLE_BEGIN\(uint(\d+)_t, {name}_grid, .*?\)\n(.*?)GGML_TABLE_END", header, re.S
    )
    assert body
    words = [int(word, 16) for word in re.findall(r"0x[0-9a-f]+", body[2])]
    oracle = np.array(words, f"<u{int(body[1]) // 8}").view(np.int8)
    grid = getattr(_grids, name.upper())
    assert np.array_equal(grid.numbers, oracle)
    assert grid.dims == int(body[1]) // 8


# -- multiplying ----------------------------------------------------------------------------------


@laws
@given(data=st.data(), seed=seeds)
def test_products_are_within_the_bounds(family: BlockType, data: st.DataObject, seed: int) -> None:
    tokens = data.draw(st.integers(1, tile_tokens() + 1))
    check_products(family, data.draw(counts(family)), tokens, np.random.default_rng(seed))


@every_type
@pytest.mark.parametrize("blocks", [18, 64])
def test_products_of_long_rows_are_within_the_bounds(family: BlockType, blocks: int) -> None:
    count = max(1, blocks * 32 // family.weights)
    check_products(family, count, 2, np.random.default_rng(blocks))


@every_type
def test_zero_activations_give_zero(family: BlockType) -> None:
    cols = 3 * family.weights
    rows = legal_rows(family, panel_rows(), cols, np.random.default_rng(2))
    assert not matvec(family, rows, np.zeros(cols, np.float32)).any()
    assert not matmat(family, rows, np.zeros((2, cols), np.float32)).any()


@every_type
def test_activations_close_to_nothing_count_as_nothing(family: BlockType) -> None:
    cols = 3 * family.weights
    rows = legal_rows(family, panel_rows(), cols, np.random.default_rng(3))
    x = np.full(cols, 1e-41, np.float32)
    assert np.abs(matvec(family, rows, x)).max() < 1e-35
    assert np.abs(matmat(family, rows, x[None])).max() < 1e-35


def as_stored(family: BlockType, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """f32[R, C], numbers F16 and BF16 hold -> u8[R, row_bytes]."""
    if family.name == "F16":
        return weights.astype("<f2").view(np.uint8)
    return (weights.view("<u4") >> 16).astype("<u2").view(np.uint8)


def as_bfloats(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rounded to nearest, halves away from zero."""
    return ((x.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("name", ["F16", "BF16"])
@pytest.mark.parametrize("outlier", [1, 1000])
def test_panels_of_short_floats_lose_less_than_llama_cpp(name: str, outlier: float) -> None:
    """It rounds activations to the type of the weights; errors here, root mean square."""
    family, rng = blocks.by_name(name), np.random.default_rng(6)
    rows = legal_rows(family, panel_rows(), 640, rng)
    weights = family.dequantize(rows).astype(np.float64)
    x = rng.standard_normal((40, 640)).astype(np.float32)
    x[:, ::97] *= outlier
    rounded = x.astype(np.float16) if name == "F16" else as_bfloats(x)
    exact = weights @ x.T.astype(np.float64)
    ours = np.sqrt(np.mean((matmat(family, rows, x) - exact) ** 2))
    assert ours < 0.7 * np.sqrt(np.mean((weights @ rounded.T.astype(np.float64) - exact) ** 2))


@pytest.mark.parametrize("name", ["F16", "BF16"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_short_floats_that_are_no_numbers_stay_none(name: str, wrong: float) -> None:
    family, ones = blocks.by_name(name), np.ones((panel_rows(), 100), np.float32)
    weights, x = ones.copy(), np.ones((3, 100), np.float32)
    weights[1, 77], x[2, 5] = wrong, wrong
    with np.errstate(invalid="ignore"):
        product = matmat(family, as_stored(family, weights), x)
    finite = np.ones((panel_rows(), 3), bool)
    finite[1], finite[:, 2] = False, False
    assert np.array_equal(np.isfinite(product), finite)


@pytest.mark.parametrize("name", ["F16", "BF16"])
@pytest.mark.parametrize("size", [1.0, 2.0**-9, 2.0**14])
@pytest.mark.parametrize("kind", ["all alike", "one of many", "alternating"])
def test_the_largest_sums_of_short_floats_fit(name: str, size: float, kind: str) -> None:
    family, cols = blocks.by_name(name), 3 * 64 + 5
    one = np.ones(cols, np.float32)
    if kind == "one of many":
        one = np.where(np.arange(cols) % 64 == 11, one, 0)
    elif kind == "alternating":
        one[::2] = -1
    signs = np.where(np.arange(panel_rows()) % 2, -1, 1).astype(np.float32)
    weights = signs[:, None] * one * np.float32(size)
    x = np.stack([one, -one, one * np.float32(1e-20), one * np.float32(1e20)])
    exact = weights.astype(np.float64) @ x.T.astype(np.float64)
    # Of 64 numbers alike each is 2^15.5 / 8 steps, half a step of which both factors may be off.
    product = matmat(family, as_stored(family, weights), x)
    np.testing.assert_allclose(product, exact, rtol=1.05 * 8 / 2**15.5)


@pytest.mark.parametrize("family", [t for t in blocks.all_types() if t.weights == 256], ids=str)
def test_to_ask_for_the_order_of_codes_reads_nothing(family: BlockType) -> None:
    frame = family.frame()
    if not isinstance(frame, SuperFrame):
        return  # the activation form, multiplied as singles
    orders = []

    def body(out: Value) -> None:
        orders.append(frame._order())
        assert [each.opname for each in trace().builder.block.instructions] == []
        store(out, out)

    call(body, np.zeros(1, np.int64))
    weights = [w for fours in orders[0] for four in fours for w in four if w >= 0]
    assert sorted(weights) == list(range(256))


@every_type
def test_a_vector_among_others_gives_the_same_bits(family: BlockType) -> None:
    rng = np.random.default_rng(4)
    cols = 5 * family.weights if family.weights > 1 else 77
    rows = legal_rows(family, 9, cols, rng)
    x = rng.standard_normal((3, cols)).astype(np.float32)
    alone = np.stack([matvec(family, rows, each) for each in x], axis=1)
    assert np.array_equal(matvecs(family, rows, x), alone)
