"""ggq-convert with calibration, whole: a tiny model, real text, types chosen by what they cost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ggq.convert import cli_defaults
from ggq.convert.alloc.costs import KnownCosts
from ggq.convert.alloc.held_out import CHOOSING, DECIDING, HeldOut
from ggq.convert.eval import Chunks, evaluate
from ggq.convert.imatrix import read_imatrix
from ggq.convert.mixtures.plan import PlannedTensor, make_plan
from ggq.convert.mixtures.presets import preset
from ggq.convert.mixtures.recipe import Options
from ggq.convert.sources.open import open_source
from ggq.convert.ways.reference_file import write_candidate
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.rows_store import RowsStore
from ggq.reader import Reader
from tests.convert_tool import Tool
from tests.quantize_inputs import Source
from tests.test_convert_cli import types

BY_DEFAULT = cli_defaults.DEFAULT
TEXT = Path(__file__).parent / "data" / "moby-dick.txt"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers of 256, tied."""
    return Source("small", 2, 256, 256, 2, True).write(tmp_path)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A small text and little of it."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT.read_text(encoding="utf-8")[:40_000], encoding="utf-8")
    return ["--calib", str(text), "--calib-tokens", "1024", "--effort", "fast", "--quiet"]


def test_types_by_predicted_divergence_in_the_bytes_of_the_preset(
    tool: Tool, model: Path, options: list[str], tmp_path: Path
) -> None:
    preset, out = tmp_path / "preset.gguf", tmp_path / "out.gguf"
    work, report = tmp_path / "work", tmp_path / "report.json"
    imatrix = tmp_path / "imatrix.gguf"
    assert tool(model, preset, "--type", "q3_k_m", "--compat", "llama", "--quiet") == 0
    more = ["--type", "q3_k_m", "--method", "guided", "--alloc", "fisher", "--workdir", str(work)]
    more += ["--report", str(report), "--save-imatrix", str(imatrix)]
    more += ["--tensor-type", "blk.0.attn_v=q8_0"]
    assert tool(model, out, *options, *more) == 0
    assert out.stat().st_size <= preset.stat().st_size + 64 * 256
    assert types(out)["blk.0.attn_v.weight"] == "Q8_0"
    with Reader(out) as reader:
        facts = {k: v for k, v in reader.metadata.items() if k.startswith("ggq.")}
    assert facts["ggq.method"] == "guided"
    assert facts["ggq.calibration.tokens"] == 1024
    assert 0 < facts["ggq.kld.measured"] <= facts["ggq.kld.preset"]
    entries = {entry["name"]: entry for entry in json.loads(report.read_text())["tensors"]}
    for name, type in types(out).items():
        assert entries[name]["type"] == type
    down = entries["blk.1.ffn_down.weight"]
    assert 0 < down["error_after"] < down["error_before"]
    assert down["sensitivity"] > 0
    assert "blk.0.attn_q.weight" in read_imatrix(imatrix).values
    first = out.read_bytes()
    assert tool(model, out, *options, *more) == 0  # everything is in the workdir
    assert out.read_bytes() == first


def test_an_interrupted_run_goes_on_in_its_workdir(
    tool: Tool, model: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out, work = tmp_path / "whole.gguf", tmp_path / "out.gguf", tmp_path / "work"
    options += ["--method", "gptq", "--workdir", str(work)]
    make, made = RowsStore._make, []

    def interrupted(store: RowsStore, planned: PlannedTensor) -> PlannedTensor:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(planned.name)
        return make(store, planned)

    monkeypatch.setattr(RowsStore, "_make", interrupted)
    assert tool(model, out, *options) == 130
    assert not out.exists()

    def counted(store: RowsStore, planned: PlannedTensor) -> PlannedTensor:
        assert planned.name not in made
        return make(store, planned)

    monkeypatch.setattr(RowsStore, "_make", counted)
    assert tool(model, out, *options) == 0
    monkeypatch.setattr(RowsStore, "_make", make)
    assert tool(model, whole, *options[:-2]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_weights_on_a_grid_stay_there(
    tool: Tool, model: Path, options: list[str], tmp_path: Path
) -> None:
    name, held = "blk.1.ffn_up.weight", tmp_path / "held.gguf"
    assert tool(model, tmp_path / "q.gguf", "--type", "q8_0", "--tensor-type", f"{name}=q4_0",
                "--quiet") == 0  # fmt: skip
    assert tool(tmp_path / "q.gguf", held, "--type", "f32", "--allow-requantize", "--quiet") == 0
    out = tmp_path / "out.gguf"
    options += ["--type", "q6_k", "--method", "gptq", "--lattice", "auto"]
    assert tool(held, out, *options) == 0
    with Reader(held) as before, Reader(out) as after:
        assert after.tensors[name].type.name == "Q4_0"
        for tensor in after.tensors.values():
            if tensor.type.name in ("Q4_0", "Q8_0"):
                assert np.array_equal(tensor.dequantize(), before.tensors[tensor.name].dequantize())
        # What sits on 8 bits is not on 6, so it is quantized by the method.
        assert after.tensors["blk.1.ffn_down.weight"].type.name == "Q6_K"


def test_the_smallest_file_within_a_divergence(
    tool: Tool, model: Path, options: list[str], tmp_path: Path
) -> None:
    sizes = []
    for nats in ("0.002", "0.00002"):
        out = tmp_path / "out.gguf"
        assert tool(model, out, *options, "--method", "llama", "--max-kld", nats) == 0
        with Reader(out) as reader:
            assert 0 < reader.metadata["ggq.kld.measured"] <= float(nats)
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1]
    assert tool(model, out, *options, "--method", "llama", "--max-kld", "1e-9") == 2
    assert "1e-09" in tool.error


def test_the_transform_that_measures_best(
    tool: Tool, model: Path, options: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    assert tool(model, out, *options, "--method", "gptq", "--transform", "auto") == 0
    with Reader(out) as reader:
        found = reader.metadata["ggq.transform.found"]
    names = ["none", "permute", "awq", "smooth", r"awq\+permute"]
    ratios = ", ".join(rf"{name} x \d+\.\d+" for name in names)
    assert re.fullmatch(rf"\S+ of {ratios}", found)


def test_what_is_held_out_is_measured_against_the_model_as_it_was(
    model: Path, tmp_path: Path
) -> None:
    source = open_source(str(model))
    infos = [tensor.info for tensor in source.tensors]
    tokens = np.random.default_rng(0).integers(0, 200, (3, 64), np.int32)
    held_out = HeldOut(tmp_path, source, tokens, 1, False)
    copy, coarse = (
        make_plan(source.metadata, infos, preset(name), Options()) for name in ("COPY", "Q4_0")
    )
    for half, pieces in ((CHOOSING, 2), (DECIDING, 1)):
        same = held_out.divergences(source, copy, Encoder(), half)
        assert len(same) == pieces * 31
        assert np.abs(same).max() < 1e-5
        rounded = held_out.divergences(source, coarse, Encoder(), half)
        candidate = tmp_path / "q4_0.gguf"
        write_candidate(source, coarse, candidate, Encoder(), 1)
        wanted = evaluate(candidate, model, Chunks(tokens[half::2]), threads=1).kld
        np.testing.assert_allclose(rounded, wanted, rtol=1e-3, atol=1e-6)
        assert rounded.mean() > 100 * np.abs(same).mean()


def test_what_is_done_by_default(
    tool: Tool, model: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_defaults, "DEFAULT", BY_DEFAULT)
    out = tmp_path / "out.gguf"
    assert tool(model, out, *options) == 0
    with Reader(out) as reader:
        assert reader.metadata["ggq.method"] == BY_DEFAULT.method == "yaqa"
        assert reader.metadata["ggq.transform"] == "awq"
        assert 0 < reader.metadata["ggq.kld.measured"] <= reader.metadata["ggq.kld.preset"]
    assert tool(model, "--dry-run") == 0


def test_costs_survive_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "costs.jsonl"
    known = KnownCosts(path)
    known.add("a", {"Q2_K": 1.0, "Q3_K": 0.5})
    known.add("b", {"Q2_K": 2.0})
    path.write_text(path.read_text()[:-4])
    known = KnownCosts(path)
    assert (known.of("a"), known.of("b")) == ({"Q2_K": 1.0, "Q3_K": 0.5}, {})
    known.add("b", {"Q2_K": 3.0})
    assert KnownCosts(path).of("b") == {"Q2_K": 3.0}


def test_a_limit_on_bits(tool: Tool, model: Path, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    options += ["--method", "gptq", "--target-bpw", "4.2"]
    assert tool(model, out, *options) == 0
    with Reader(out) as reader:
        tensors = reader.tensors.values()
        bits = 8 * sum(t.nbytes for t in tensors) / sum(t.n_weights for t in tensors)
    assert 3.7 < bits <= 4.2


def test_text_written_by_the_model_itself(tool: Tool, model: Path, tmp_path: Path) -> None:
    options = ["--method", "gptq", "--calib", "self", "--calib-tokens", "1024", "--effort", "fast"]
    hashes = set()
    for seed in ("1", "1", "2"):
        assert tool(model, tmp_path / "out.gguf", *options, "--seed", seed, "--quiet") == 0
        with Reader(tmp_path / "out.gguf") as reader:
            hashes.add((seed, reader.metadata["ggq.calibration.hash"]))
    assert len({found for _, found in hashes}) == len(hashes) == 2


def test_what_takes_long_is_not_begun_unasked(
    tool: Tool, model: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggq.convert.ways import affordable

    monkeypatch.setattr(affordable, "estimate_seconds", lambda *_: 7200.0)
    out = tmp_path / "out.gguf"
    at = options.index("--effort")
    unset = options[:at] + options[at + 2 :]
    assert tool(model, out, *unset, "--alloc", "fisher") == 2
    assert "2.0 hours" in tool.error
    assert "--effort normal" in tool.error
    assert not out.exists()
    assert tool(model, out, *unset, "--method", "gptq", "--type", "q4_k") == 0
    line = next(line for line in tool.stderr.splitlines() if "2.0 hours" in line)
    assert "which needs none" in line
    assert line.endswith("--effort normal")
    with Reader(out) as reader:
        assert reader.metadata.get("ggq.method", "llama") in ("hqq", "llama")


def test_too_little_text_is_refused(tool: Tool, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Too short.\n")
    assert tool(model, tmp_path / "out.gguf", "--method", "gptq", "--calib", text) == 3
    assert "tokens of text" in tool.error
