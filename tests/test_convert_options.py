"""Options of ggq-convert that choose method, types and calibration: which go together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ggq.convert.ways import data_free
from ggq.convert.ways.random_tokens import random_tokens
from ggq.metadata import Metadata
from ggq.reader import Reader
from ggq.spec import ValueType
from tests.convert_tool import Tool
from tests.quantize_inputs import IMATRIX, SOURCES, write_imatrix_gguf
from tests.test_convert_cli import types


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A GGUF file with rows of 256."""
    return SOURCES["tied"].write(tmp_path)


CONFLICTS = [
    (["--target-size", "4.2GB", "--target-bpw", "4"], "one limit"),
    (["--target-bpw", "4", "--max-kld", "0.1"], "one limit"),
    (["--target-size", "1GB", "--type", "q4_k"], "chooses the types"),
    (["--max-kld", "0.1", "--alloc", "preset"], "needs --alloc fisher"),
    (["--alloc", "fisher", "--pure"], "--pure"),
    (["--compat", "llama", "--method", "gptq"], "llama-quantize knows nothing"),
    (["--compat", "llama", "--lattice", "auto"], "llama-quantize knows nothing"),
    (["--compat", "llama", "--alloc", "fisher"], "llama-quantize knows nothing"),
    (["--compat", "llama", "--transform", "awq"], "llama-quantize knows nothing"),
    (["--compat", "llama", "--target-bpw", "4"], "llama-quantize knows nothing"),
    (["--no-calib", "--method", "guided"], "needs text"),
    (["--no-calib", "--calib", "builtin"], "needs text"),
    (["--no-calib", "--transform", "auto"], "needs text"),
    (["--no-calib", "--max-kld", "0.1"], "needs text"),
    (["--imatrix", "x.gguf", "--method", "hqq"], "weigh by it"),
    (["--imatrix", "x.gguf", "--save-imatrix", "y.gguf"], "one source of importance"),
    (["--target-size", "big"], "4.2GiB"),
    (["--target-bpw", "99"], "bits per weight"),
    (["--max-kld", "-1"], "KL divergence"),
    (["--calib-tokens", "12"], "1024"),
    (["--seed", "-1"], "999999999"),
    (["--method", "magic"], "invalid choice"),
    (["--report", "report.txt"], ".html or .json"),
    (["--workdir", "w"], "does not calibrate"),
    (["--target-size", "10KB"], "smallest preset"),
]


@pytest.mark.parametrize(("options", "message"), CONFLICTS)
def test_what_excludes_each_other_is_refused(
    options: list[str],
    message: str,
    tool: Tool,
    wide: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.gguf"
    assert tool(wide, out, *options) == 2
    assert message in tool.error
    assert tool.stdout == ""
    assert not out.exists()


def test_dry_run_of_a_limit_begins_with_a_preset(tool: Tool, wide: Path) -> None:
    for bits, preset in (("8.7", "Q8_0"), ("5.2", "Q4_K_M"), ("2.3", "IQ2_XXS")):
        assert tool(wide, "--dry-run", "--target-bpw", bits) == 0
        assert f"this is {preset}" in tool.stderr
    assert tool(wide, "--dry-run", "--json", "--target-size", "2MB", "-q") == 0
    assert json.loads(tool.stdout)["total_bytes"] < 2_000_000


@pytest.mark.parametrize("options", [["--method", "llama"], ["--compat", "llama"]])
def test_what_llama_quantize_does_has_no_keys_of_ours(
    options: list[str],
    tool: Tool,
    wide: Path,
    tmp_path: Path,
) -> None:
    plain, other = tmp_path / "plain.gguf", tmp_path / "other.gguf"
    assert tool(wide, plain, "--compat", "llama") == 0
    assert tool(wide, other, *options) == 0
    assert plain.read_bytes() == other.read_bytes()
    with Reader(other) as reader:
        assert not [key for key in reader.metadata if key.startswith("ggq.")]


def test_report_of_a_plain_conversion(tool: Tool, wide: Path, tmp_path: Path) -> None:
    for name in ("report.json", "report.html"):
        out, report = tmp_path / "out.gguf", tmp_path / name
        assert tool(wide, out, "--type", "q4_k", "--report", report) == 0
        text = report.read_text()
        for tensor, type in types(out).items():
            assert tensor in text
            assert type in text
        if name.endswith(".json"):
            entries = {entry["name"]: entry for entry in json.loads(text)["tensors"]}
            entry = entries["blk.0.attn_q.weight"]
            assert entry["rule"] == "Q4_K_M: default"
            assert 1e-3 < entry["error_after"] == entry["error_before"] < 2e-2
            assert entries["output_norm.weight"]["error_after"] is None
        else:
            assert "http" not in text
            assert "<script" not in text


def test_a_method_without_data_says_so_in_the_file(
    tool: Tool,
    wide: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.gguf"
    write_imatrix_gguf(SOURCES["tied"], tmp_path)
    imatrix = tmp_path / IMATRIX
    assert tool(wide, out, "--method", "imatrix", "--imatrix", imatrix, "--quiet") == 0
    with Reader(out) as reader:
        assert reader.metadata["ggq.method"] == "imatrix"
        assert reader.metadata["ggq.allocation"] == "preset"


@pytest.mark.parametrize("name", ["tied", "experts", "narrow"])
def test_without_data_random_tokens_tell_which_columns_matter(
    name: str, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SOURCES[name].write(tmp_path)
    preset, out, again, even = (tmp_path / f"{n}.gguf" for n in ("preset", "out", "again", "even"))
    assert tool(model, preset, "--compat", "llama", "--quiet") == 0
    assert tool(model, out, "--no-calib", "--quiet") == 0
    assert types(out) == types(preset)
    with Reader(out) as reader:
        assert reader.metadata["ggq.method"] == "hqq"
        assert not [key for key in reader.metadata if "imatrix" in key]
    assert tool(model, again, "--method", "hqq", "--quiet") == 0
    assert again.read_bytes() == out.read_bytes()
    monkeypatch.setattr(data_free, "cannot_run", lambda source: "not by ggq")
    assert tool(model, even, "--no-calib", "--quiet") == 0
    assert types(even) == types(out)
    assert even.read_bytes() != out.read_bytes()


def test_random_tokens_are_normal_ones_behind_the_first() -> None:
    metadata = Metadata()
    tokens, kinds = ["<s>", "a", "</s>", "b", "c"], [3, 1, 3, 1, 1]
    metadata.set("tokenizer.ggml.tokens", tokens, ValueType.ARRAY, ValueType.STRING)
    metadata.set("tokenizer.ggml.token_type", kinds, ValueType.ARRAY, ValueType.I32)
    metadata.set("tokenizer.ggml.bos_token_id", 0, ValueType.U32)
    drawn = random_tokens(metadata, 0)
    assert drawn.dtype == np.int32
    assert set(drawn[:, 0]) == {0}
    _, counts = np.unique(drawn[:, 1:], return_counts=True)
    assert set(np.unique(drawn[:, 1:])) == {1, 3, 4}
    assert counts.min() > 0.8 * counts.mean()
    np.testing.assert_array_equal(drawn, random_tokens(metadata, 0))
    assert (drawn != random_tokens(metadata, 1)).any()
