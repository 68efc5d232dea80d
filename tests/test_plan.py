"""The plan as a table and as JSON, its totals and refusals, and the metadata of the output."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ggq.blocks import by_name
from ggq.convert.imatrix import Imatrix, read_imatrix
from ggq.convert.mixtures.plan import Plan, make_plan
from ggq.convert.mixtures.presets import all_presets, preset
from ggq.convert.mixtures.recipe import Options
from ggq.convert.writing.output_metadata import output_metadata
from ggq.errors import ConvertError, ImatrixError, ImatrixNeededError, MissingKeyError
from ggq.metadata import Metadata
from ggq.reader import Reader
from ggq.spec import TensorInfo, ValueType, padded
from ggq.tensor_info import encode_info
from tests.golden.make_recipe import HEADER_OPTIONS, HEADER_SOURCE
from tests.quantize_inputs import IMATRIX, SOURCES, write_imatrix_dat, write_imatrix_gguf
from tests.snapshot_models import MODELS

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("recipe.json").read_text())
F32, Q8_0 = by_name("F32"), by_name("Q8_0")


def llama(layers: int = 2) -> Metadata:
    metadata = Metadata()
    metadata.set("general.architecture", "llama", ValueType.STRING)
    metadata.set("llama.block_count", layers, ValueType.U32)
    return metadata


TENSORS = [
    TensorInfo("token_embd.weight", (32, 576), F32),
    TensorInfo("blk.1.ffn_up.weight", (4, 256), F32),
    TensorInfo("blk.0.ffn_up.weight", (4, 576), F32),
    TensorInfo("output_norm.weight", (576,), F32),
]


def small_plan(name: str = "q4_k", tensors: list[TensorInfo] = TENSORS, **options: bool) -> Plan:
    return make_plan(llama(), tensors, preset(name), Options(**options))  # type: ignore[arg-type]


def test_the_plan_as_one_json_object() -> None:
    embedding, up_0, up_1 = 32 * 576 // 32 * 34, 4 * 576 // 32 * 22, 4 * 144
    expected = [
        ("output_norm.weight", [576], "F32", "kept: fewer than 2 dimensions", 4 * 576),
        ("token_embd.weight", [32, 576], "Q8_0",
         "Q4_K_M: output, tied embedding; 576 columns: Q6_K -> Q8_0", embedding),
        ("blk.0.ffn_up.weight", [4, 576], "Q5_0",
         "Q4_K_M: default; 576 columns: Q4_K -> Q5_0", up_0),
        ("blk.1.ffn_up.weight", [4, 256], "Q4_K", "Q4_K_M: default", up_1),
    ]  # fmt: skip
    found = json.loads(json.dumps(small_plan().as_json()))
    assert list(found) == ["tensors", "total_bytes", "bits_per_weight"]
    assert found["tensors"] == [
        {
            "name": name, "shape": shape, "source_type": "F32", "type": type, "rule": rule,
            "bytes": nbytes,
        }
        for name, shape, type, rule, nbytes in expected
    ]  # fmt: skip
    total = 4 * 576 + embedding + up_0 + up_1
    assert found["total_bytes"] == total
    assert found["bits_per_weight"] == 8 * total / (576 + 32 * 576 + 4 * 576 + 4 * 256)


def test_the_plan_as_a_table() -> None:
    lines = small_plan().as_table().splitlines()
    assert lines[0].split() == ["name", "shape", "source", "type", "bytes", "rule"]
    assert lines[2].split()[:7] == ["token_embd.weight", "32", "x", "576", "F32", "Q8_0", "19,584"]
    rules = {line.index(start) for line in lines[:5] for start in ("rule", "kept", "Q4_K_M:")
             if start in line}  # fmt: skip
    assert len(rules) == 1
    assert lines[-2] == "24,048 bytes, 8.61 bits per weight"
    assert lines[-1] == small_plan().fallback_summary()


def test_the_fallback_summary_counts_tensors_weights_and_bits() -> None:
    wanted = 32 * 576 * 6.5625 + 4 * 576 * 4.5 + 4 * 256 * 4.5 + 576 * 32
    assert f"{wanted / 22336:.1f}" == "6.9"
    assert small_plan().fallback_summary() == (
        "2 of 4 tensors, 93 % of weights, fell back: 6.9 -> 8.6 bits per weight"
    )
    assert small_plan("q8_0").fallback_summary() == ""


def test_leading_ones_are_not_stored() -> None:
    plan = small_plan("f16", [TensorInfo("blk.0.x.weight", (1, 3, 256), F32)])
    assert plan.tensors[0].shape == (3, 256)
    assert plan.as_json()["tensors"][0]["shape"] == [3, 256]


def test_a_plan_needs_the_layer_count() -> None:
    metadata = llama()
    metadata.pop("llama.block_count")
    with pytest.raises(MissingKeyError, match=r"llama\.block_count"):
        make_plan(metadata, TENSORS, preset("q8_0"), Options())


# --- what a plan refuses -------------------------------------------------------------------------


def entries(*names: str, columns: int = 256) -> Imatrix:
    return Imatrix("i.dat", {name: np.ones(columns, np.float32) for name in names}, [], 1)


def test_a_preset_that_needs_an_imatrix_warns_first_and_refuses_then() -> None:
    plan = small_plan("iq2_xs", TENSORS[1:2])
    assert plan.imatrix_warning() == (
        "IQ2_XS needs an importance matrix for 1 of 1 tensors: converting will need --imatrix FILE"
    )
    with pytest.raises(ImatrixNeededError, match=r"blk\.1\.ffn_up\.weight is to be IQ2_XS.*there"):
        plan.require_imatrix(None)
    with pytest.raises(ImatrixNeededError, match=r"i\.dat has no entry for it"):
        plan.require_imatrix(entries("blk.0.ffn_up.weight"))
    plan.require_imatrix(entries("blk.1.ffn_up.weight"))


def test_other_presets_take_an_imatrix_with_gaps_but_not_one_of_another_model() -> None:
    plan = small_plan("q4_k", TENSORS[1:2])
    assert plan.imatrix_warning() == ""
    plan.require_imatrix(None)
    plan.require_imatrix(entries("blk.7.ffn_up.weight"))
    with pytest.raises(ImatrixError, match="another model"):
        plan.require_imatrix(entries("blk.1.ffn_up.weight", columns=128))
    small_plan("copy", TENSORS[1:2]).require_imatrix(entries("blk.1.ffn_up.weight", columns=128))


def test_quantized_tensors_are_not_quantized_again() -> None:
    tensors = [TensorInfo("blk.0.x.weight", (4, 256), Q8_0)]
    small_plan("q8_0", tensors).refuse_requantizing()
    small_plan("copy", tensors).refuse_requantizing()
    with pytest.raises(ConvertError, match=r"is Q8_0 already, making it Q4_K .*--allow-requantize"):
        small_plan("q4_k", tensors).refuse_requantizing()


# --- the metadata of the output ------------------------------------------------------------------


def header(metadata: Metadata, plan: Plan) -> bytes:
    """A GGUF v3 file up to its data."""
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(plan.tensors), len(metadata)), metadata.encode()]
    offset = 0
    for tensor in plan.tensors:
        parts.append(encode_info(tensor.info, offset))
        offset += padded(tensor.bytes, 32)
    whole = b"".join(parts)
    return whole.ljust(padded(len(whole), 32), b"\0")


def test_headers_equal_those_of_llama_quantize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES[HEADER_SOURCE]
    write_imatrix_gguf(source, tmp_path)
    write_imatrix_dat(source, tmp_path)
    monkeypatch.chdir(tmp_path)  # the file's name, as it was given, goes into the metadata
    with Reader(source.write(tmp_path)) as reader:
        for key, option in HEADER_OPTIONS.items():
            imatrix = read_imatrix(option[1]) if option else None
            options = Options(has_imatrix=imatrix is not None)
            for wanted in all_presets():
                plan = make_plan(reader.metadata, reader.tensors.values(), wanted, options)
                expected = GOLDEN["headers"][wanted.name + key]
                if expected is None:
                    with pytest.raises(ImatrixNeededError):
                        plan.require_imatrix(imatrix)
                    continue
                plan.require_imatrix(imatrix)
                made = output_metadata(reader.metadata, wanted, reader.tensors.values(), imatrix)
                found = hashlib.sha256(header(made, plan)).hexdigest()
                assert found == expected, wanted.name + key


def test_every_preset_has_a_header_to_compare_with() -> None:
    missing = [p.name for p in all_presets() if not GOLDEN["headers"][f"{p.name} imatrix.dat"]]
    assert missing == []


def test_output_metadata_moves_its_keys_to_the_end_and_drops_the_split() -> None:
    source = llama()
    for key, kind in (
        ("general.file_type", ValueType.U32), ("split.no", ValueType.U16),
        ("quantize.imatrix.chunks_count", ValueType.I32), ("split.count", ValueType.U16),
        ("own.key", ValueType.U8), ("general.quantization_version", ValueType.U32),
        ("split.tensors.count", ValueType.I32),
    ):  # fmt: skip
        source.set(key, 1, kind)
    plain = output_metadata(source, preset("q4_k"), [])
    assert list(plain) == [
        "general.architecture", "llama.block_count", "quantize.imatrix.chunks_count", "own.key",
        "general.quantization_version", "general.file_type",
    ]  # fmt: skip
    assert (plain["general.quantization_version"], plain["general.file_type"]) == (2, 15)
    assert list(source)[2] == "general.file_type"
    imatrix = Imatrix("x" * 200, {"a": np.ones(1, np.float32)}, ["y" * 200, "z"], 9)
    full = output_metadata(source, preset("q4_k"), [], imatrix)
    assert [(key, full[key], full.type(key)) for key in list(full)[-4:]] == [
        ("quantize.imatrix.file", "x" * 127, ValueType.STRING),
        ("quantize.imatrix.dataset", "y" * 127, ValueType.STRING),
        ("quantize.imatrix.entries_count", 1, ValueType.U32),
        ("quantize.imatrix.chunks_count", 9, ValueType.U32),
    ]
    old = output_metadata(source, preset("q4_k"), [], Imatrix("x", {}, [], 0))
    assert list(old)[-2:] == ["quantize.imatrix.file", "quantize.imatrix.entries_count"]


def test_copy_states_the_sources_file_type_or_guesses_it() -> None:
    source = llama()
    guessed = output_metadata(source, preset("copy"), [TensorInfo("a", (32,), Q8_0)])
    assert guessed["general.file_type"] == 1024 + 7
    pair = [TensorInfo("blk.1.a", (256,), by_name("Q4_K")), TensorInfo("blk.0.a", (32,), Q8_0)]
    first = output_metadata(source, preset("copy"), pair)
    assert first["general.file_type"] == 1024 + 7
    source.set("general.file_type", 15, ValueType.U32)
    stated = output_metadata(source, preset("copy"), [TensorInfo("a", (32,), Q8_0)])
    assert stated["general.file_type"] == 15


def test_the_seeded_imatrix_is_the_one_the_golden_files_were_made_with(tmp_path: Path) -> None:
    path = write_imatrix_gguf(SOURCES[HEADER_SOURCE], tmp_path)
    assert path.name == IMATRIX
    golden = json.loads(Path(__file__).with_name("golden").joinpath("llama_cpp.json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == golden["inputs"]["tied imatrix"]


def test_a_plan_of_70_billion_weights_needs_no_weights(tmp_path: Path) -> None:
    path = MODELS["meta-llama-3.1-70b-instruct"].write(tmp_path / "header.gguf")
    assert path.stat().st_size < 2**17
    with Reader(path, header_only=True) as reader:
        plan = make_plan(reader.metadata, reader.tensors.values(), preset("q4_k"), Options())
    assert 4.8 < plan.bits_per_weight < 4.9
    assert plan.total_bytes == sum(tensor["bytes"] for tensor in plan.as_json()["tensors"])
