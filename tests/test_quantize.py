"""Quantizers against the oracle's bytes: every type, with and without importance, in every form."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libgguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ggq.blocks import BlockType, all_types, by_name
from ggq.errors import QuantizeError
from ggq.jit import cpu
from tests.golden.make_llama_cpp import GGML_TYPES, importances_for
from tests.quantize_inputs import block_inputs
from tests.weight_strategies import F32, importances, weights

U8 = npt.NDArray[np.uint8]
GOLDEN = Path(__file__).with_name("golden") / "llama_cpp.json"

TYPES = [t for t in all_types() if t.can_quantize]
# libgguf has an older search for IQ1_M.
ACTIVATIONS = ("Q8_1", "Q8_K")
WITHOUT_ORACLE = ("Q8_1", "Q8_K", "Q2_0", "F64", "IQ1_M")
FORMS_OF_USE = [
    (t, weighted)
    for t in TYPES
    for weighted in (False, True)
    if (t.uses_importance if weighted else not t.needs_importance)
]
CASES = [case for case in FORMS_OF_USE if case[0].name not in WITHOUT_ORACLE]
laws = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
fewer_laws = settings(laws, max_examples=30)  # where the oracle is slow


def case_name(case: object) -> str:
    return {True: "importance", False: "plain"}.get(case, str(case))  # type: ignore[call-overload]


def oracle(family: BlockType, x: F32, importance: F32 | None = None) -> U8:
    """u8[R, row_bytes]: what x86-64 llama-quantize writes."""
    raw = libgguf.quantize_rows_raw(family.id, x, *x.shape, importance)
    return np.frombuffer(raw, np.uint8).reshape(len(x), -1)


def even(family: BlockType, x: F32) -> F32 | None:
    """Importance for the types that do not go without."""
    return np.ones(x.shape[1], np.float32) if family.needs_importance else None


def blocks_of(family: BlockType, rows: U8) -> npt.NDArray[np.void]:
    """The records of all blocks."""
    return rows.reshape(-1, family.nbytes).view(family.layout)[:, 0]


def has_infinite_scale(family: BlockType, rows: U8) -> bool:
    """Whether some half precision field is infinite or NaN."""
    blocks = blocks_of(family, rows)
    halves = [n for n in family.layout.names or () if family.layout[n] == np.float16]
    return any(not np.isfinite(blocks[name]).all() for name in halves)


def test_every_type_but_the_integers_can_be_quantized_to() -> None:
    assert {t.name for t in all_types()} - {t.name for t in TYPES} == {"I8", "I16", "I32", "I64"}


@pytest.mark.parametrize(("family", "weighted"), CASES, ids=case_name)
def test_bytes_are_the_oracles(family: BlockType, weighted: bool) -> None:
    @(fewer_laws if family.name in GGML_TYPES else laws)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        x = data.draw(weights(family))
        importance = data.draw(importances(x.shape[1])) if weighted else None
        wanted = oracle(family, x, importance)
        if has_infinite_scale(family, wanted):
            with pytest.raises(QuantizeError):
                family.quantize(x, importance)
        else:
            assert np.array_equal(family.quantize(x, importance), wanted)

    law()


@pytest.mark.parametrize("family", [t for t, weighted in CASES if weighted], ids=str)
def test_large_weights_are_the_oracles_or_refused(family: BlockType) -> None:
    @laws
    @given(st.data(), st.floats(4, 12))
    def law(data: st.DataObject, exponent: float) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        x = (rng.standard_normal((2, 1024)) * 10**exponent).astype(np.float32)
        wanted = oracle(family, x, even(family, x))
        try:
            assert np.array_equal(family.quantize(x, even(family, x)), wanted)
        except QuantizeError:
            assert has_infinite_scale(family, wanted) or np.abs(x).max() >= 2.0**36

    law()


def inverse(d: F32) -> F32:
    """1 / d as f32[rows, 1]; 0 for 0 and where it overflows, as no code but 0 comes of that."""
    with np.errstate(divide="ignore", over="ignore"):
        found = np.float32(1) / d
    return np.where(np.isfinite(found), found, np.float32(0))[:, None]


def half_away(x: F32) -> npt.NDArray[np.int64]:
    wide = x.astype(np.float64)
    return np.trunc(wide + np.copysign(0.5, wide)).astype(np.int64)


def q2_0(x: F32) -> U8:
    d = np.abs(x).max(1)
    codes = half_away(x * inverse(d)).clip(-1, 2) + 1
    codes[(d > 0) & (inverse(d)[:, 0] == 0)] = 0
    blocks = np.zeros(len(x), by_name("Q2_0").layout)
    blocks["d"], blocks["qs"] = d, (codes.reshape(-1, 16, 4) << [0, 2, 4, 6]).sum(2)
    return blocks.view(np.uint8)


def q8_1(x: F32) -> U8:
    d = np.abs(x).max(1) / np.float32(127)
    codes = half_away(x * inverse(d))
    blocks = np.zeros(len(x), by_name("Q8_1").layout)
    sums = codes.sum(1).astype(np.float32) * d
    assume((np.abs(sums) < 65504).all())
    blocks["d"], blocks["s"], blocks["qs"] = d, sums, codes
    return blocks.view(np.uint8)


def q8_k(x: F32) -> U8:
    signed = x[np.arange(len(x)), np.abs(x).argmax(1)]
    with np.errstate(divide="ignore", over="ignore"):
        scale = np.float32(-127) / signed
        d = np.where(signed == 0, np.float32(0), np.float32(1) / scale)
    usable = np.where(np.isfinite(scale), scale, np.float32(0))[:, None]
    codes = np.rint(usable * x).astype(np.int64).clip(-128, 127)
    blocks = np.zeros(len(x), by_name("Q8_K").layout)
    blocks["d"], blocks["qs"], blocks["bsums"] = d, codes, codes.reshape(-1, 16, 16).sum(2)
    return blocks.view(np.uint8)


def f64(x: F32) -> U8:
    return x.astype(np.float64).view(np.uint8)


@pytest.mark.parametrize("reference", [q2_0, q8_1, q8_k, f64], ids=lambda f: f.__name__)
def test_bytes_of_types_without_an_oracle(reference: Callable[[F32], U8]) -> None:
    family = by_name(reference.__name__)

    @laws
    @given(weights(family))
    def law(x: F32) -> None:
        wanted = reference(x.reshape(-1, family.weights))
        assert np.array_equal(family.quantize(x).ravel(), wanted.ravel())

    law()


@pytest.mark.parametrize("name", GGML_TYPES)
def test_bytes_are_native_llama_cpps(name: str) -> None:
    hashes = json.loads(GOLDEN.read_text())["blocks"]
    for kind, x in block_inputs().items():
        digest = hashlib.sha256()
        for importance in importances_for(name):
            digest.update(by_name(name).quantize(x, importance).tobytes())
        assert digest.hexdigest() == hashes[f"{name} {kind}"], kind


# Largest error of random weights, in units of their block's largest magnitude.
ERRORS = {
    "F64": 0, "F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 0.0045, "Q8_1": 0.0045,
    "Q8_K": 0.0040, "Q6_K": 0.025, "Q5_0": 0.064, "Q5_1": 0.035, "Q5_K": 0.065, "Q4_0": 0.127,
    "Q4_1": 0.07, "Q4_K": 0.12, "IQ4_NL": 0.14, "IQ4_XS": 0.14, "MXFP4": 0.25, "NVFP4": 0.2,
    "Q3_K": 0.3, "Q2_K": 0.5, "TQ1_0": 0.501, "TQ2_0": 0.501, "Q2_0": 0.501, "Q1_0": 1,
    "IQ3_S": 0.5, "IQ3_XXS": 0.6, "IQ2_S": 0.8, "IQ2_XS": 0.9, "IQ2_XXS": 1, "IQ1_M": 1.2,
    "IQ1_S": 1.2,
}  # fmt: skip


@pytest.mark.parametrize("family", TYPES, ids=str)
def test_the_round_trip_error_is_bounded_and_zeros_stay_zeros(family: BlockType) -> None:
    @laws
    @given(st.integers(0, 2**32), st.floats(-1, 2))
    def law(seed: int, exponent: float) -> None:
        rng = np.random.default_rng(seed)
        x = (rng.standard_normal((4, 512)) * 10**exponent).astype(np.float32)
        x[2] = 0
        back = family.dequantize(family.quantize(x, even(family, x)))
        assert not back[2].any()
        error = np.abs(back - x).reshape(-1, family.weights).max(1)
        limit = np.abs(x).reshape(-1, family.weights).max(1) * ERRORS[family.name]
        assert (error <= limit + 1e-7).all()

    law()


@pytest.mark.parametrize("family", TYPES, ids=str)
def test_nan_and_infinity_are_refused_with_their_place(family: BlockType) -> None:
    @laws
    @given(st.integers(0, 8), st.integers(0, 767), st.sampled_from([np.nan, np.inf, -np.inf]))
    def law(row: int, column: int, value: float) -> None:
        x = np.full((9, 768), 0.5, np.float32)
        x[row, column] = value
        with pytest.raises(QuantizeError, match=rf"row {row}, column {column} is {value}:") as info:
            family.quantize(x, even(family, x))
        assert (info.value.row, info.value.column) == (row, column)

    law()


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "Q3_K", "TQ2_0"])
def test_weights_no_finite_scale_can_hold_are_refused_with_their_place(name: str) -> None:
    x = np.ones((5, 1024), np.float32)
    x[3, 700] = 3.4e38
    with pytest.raises(QuantizeError, match=r"row 3, column 700 is 3.4e\+38") as info:
        by_name(name).quantize(x)
    assert (info.value.row, info.value.column) == (3, 700)


def test_the_first_of_several_bad_weights_is_named() -> None:
    x = np.ones((600, 1024), np.float32)
    for row, column in ((599, 3), (411, 500), (411, 499)):
        x[row, column] = np.nan
    with pytest.raises(QuantizeError, match="row 411, column 499"):
        by_name("Q8_0").quantize(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_importance_that_is_no_mean_square_is_refused(bad: float) -> None:
    importance = np.ones(256, np.float32)
    importance[17] = bad
    with pytest.raises(QuantizeError, match="importance of column 17"):
        by_name("Q4_K").quantize(np.ones((1, 256), np.float32), importance)


def test_a_type_without_quantizer_says_so() -> None:
    with pytest.raises(QuantizeError, match="I8 tensors cannot be quantized to"):
        by_name("I8").quantize(np.ones((1, 256), np.float32))


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ1_S"])
def test_types_that_need_importance_say_so(name: str) -> None:
    with pytest.raises(QuantizeError, match=f"{name} tensors need the importance of every column"):
        by_name(name).quantize(np.ones((1, 256), np.float32))


@pytest.mark.parametrize("name", ["Q4_K", "Q4_0", "Q8_0", "F16", "IQ3_S", "IQ1_M"])
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    family = by_name(name)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((787, 1024)).astype(np.float32)
    importance = rng.random(1024).astype(np.float32)
    one = family.quantize(x, importance, threads=1)
    for threads in (0, 2, 3, 7):
        assert np.array_equal(family.quantize(x, importance, threads=threads), one)


def run_python(*arguments: str, **environment: str) -> str:
    """Output of a Python process of its own, in the repository."""
    command = [sys.executable, *arguments]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, env=os.environ | environment, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    return done.stdout


def test_no_byte_outside_of_the_arrays_is_touched() -> None:
    assert run_python("-m", "tests.guarded_quantize").endswith("done\n")


def test_rows_of_other_memory_layouts_are_read_right() -> None:
    x = np.random.default_rng(6).standard_normal((64, 96)).astype(np.float32)
    q8_0 = by_name("Q8_0")
    assert np.array_equal(
        q8_0.quantize(x.T[:, :32]), oracle(q8_0, np.ascontiguousarray(x.T[:, :32]))
    )
    assert q8_0.quantize(np.empty((0, 64), np.float32)).shape == (0, 68)


def digests() -> dict[str, str]:
    """ "TYPE kind weighted" -> sha256 of what this process' form of the quantizers makes."""
    found = {}
    for kind, x in block_inputs(rows=2, cols=1536).items():
        uneven = np.abs(block_inputs(1, 1536)["random"][0]) ** 3
        for family, weighted in FORMS_OF_USE:
            if family.name in ACTIVATIONS:
                continue
            rows = family.quantize(x, uneven if weighted else None)
            found[f"{family} {kind} {weighted}"] = hashlib.sha256(rows.tobytes()).hexdigest()
    return found


# Others differ from these only in integer dot products, which no quantizer has.
LOWER_FORMS = [form for form in cpu.forms()[1:] if form in ("avx2", "neon", "generic")]


@pytest.mark.parametrize("form", LOWER_FORMS)
def test_lower_forms_give_the_same_bytes(form: str) -> None:
    program = "import json; from tests.test_quantize import digests; print(json.dumps(digests()))"
    assert json.loads(run_python("-c", program, GGQ_CPU=form)) == digests()
