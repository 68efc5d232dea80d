"""ggq-convert as a user meets it: flags, plans, output, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggq.reader import Reader
from tests.arch_cases import PRESETS
from tests.convert_tool import Tool
from tests.models import TINY
from tests.oracles import sha256
from tests.quantize_inputs import IMATRIX, SOURCES, write_imatrix_gguf
from tests.snapshot_models import MODELS

ROOT = Path(__file__).parents[1]
REFERENCE = json.loads((ROOT / "tests" / "golden" / "arch_reference.json").read_text())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return TINY["llama3"].write_hf(tmp_path / "tiny")


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A GGUF file with rows of 256."""
    return SOURCES["tied"].write(tmp_path)


def types(path: Path) -> dict[str, str]:
    with Reader(path) as reader:
        return {tensor.name: tensor.type.name for tensor in reader.tensors.values()}


def test_last_line_says_everything(tool: Tool, directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "a file.gguf"
    assert tool(directory, out, "--type", "q8_0") == 0
    assert tool.stdout == ""
    last = tool.stderr.splitlines()[-1]
    assert last.startswith(f"ggq-convert: {out}: 0.2 MB; 8.")
    for part in (" bits per weight; ", "30 Q8_0", "10 F32", "no fallbacks; ", " s; try it: "):
        assert part in last
    assert last.endswith(f"ggq-run '{out}' -p 'Hello'")


def test_fallbacks_are_counted(tool: Tool, directory: Path, tmp_path: Path) -> None:
    assert tool(directory, tmp_path / "out.gguf", "--type", "q4_k", "--quiet") == 0
    assert "30 of 40 tensors, " in tool.stderr
    assert " % of weights, fell back: " in tool.stderr


def test_progress_in_plain_lines(tool: Tool, directory: Path, tmp_path: Path) -> None:
    assert tool(directory, tmp_path / "out.gguf", "--type", "f32") == 0
    lines = tool.stderr.splitlines()
    assert 3 <= len(lines) <= 13
    assert "100 %" in lines[-3]
    assert "s left" in lines[-3]
    assert " was the limit, at work " in lines[-2]
    assert tool(directory, tmp_path / "out.gguf", "--type", "f32", "--quiet") == 0
    assert len(tool.stderr.splitlines()) == 1


@pytest.mark.parametrize("place", [".", "tiny"])
def test_running_twice_replaces(place: str, tool: Tool, directory: Path, tmp_path: Path) -> None:
    out = tmp_path / place / "out.gguf"
    out.write_bytes(b"older")
    assert tool(directory, out, "--type", "q8_0") == 0
    first = out.read_bytes()
    assert tool(directory, out, "--type", "q8_0") == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize("name", TINY)
def test_every_architecture_converts(name: str, tool: Tool, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    source = TINY[name].write_hf(tmp_path / "hf")
    assert tool(source, out, "--type", "f32") == 0
    gguf = TINY[name].write_gguf(tmp_path / "m.gguf")
    with Reader(out) as made, Reader(gguf) as wanted:
        assert made.tensors.keys() == wanted.tensors.keys()
        for tensor in wanted.tensors.values():
            assert made.tensors[tensor.name].data.tobytes() == tensor.data.tobytes()
        for key in ("tokens", "token_type", "merges"):
            key = f"tokenizer.ggml.{key}"
            assert made.metadata[key].tolist() == wanted.metadata[key].tolist()
        assert list(made.metadata)[-2:] == ["general.quantization_version", "general.file_type"]


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize("name", TINY)
def test_whole_file_is_that_of_converter_and_quantizer(
    name: str, kind: str, tool: Tool, tmp_path: Path
) -> None:
    """llama.cpp's convert_hf_to_gguf --outtype f32, then llama-quantize."""
    source = TINY[name].write_hf(tmp_path / name)
    out = tmp_path / "out.gguf"
    assert tool(source, out, "--type", kind, "--compat", "llama") == 0
    assert sha256(out) == REFERENCE[name]["files"][kind]


# --- plans -------------------------------------------------------------------------------------


def test_plan_as_json(tool: Tool, directory: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert tool(directory, "--type", "q8_0", "--dry-run", "--json") == 0
    whole = json.loads(tool.stdout)
    assert whole.keys() == {"tensors", "total_bytes", "bits_per_weight"}
    assert whole["total_bytes"] == sum(tensor["bytes"] for tensor in whole["tensors"])
    assert tool.plan()["token_embd.weight"] == {
        "name": "token_embd.weight",
        "shape": [288, 64],
        "source_type": "F32",
        "type": "Q8_0",
        "rule": "Q8_0: default",
        "bytes": 288 * 64 // 32 * 34,
    }
    assert tool.plan()["rope_freqs.weight"]["type"] == "F32"
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_is_what_is_written(tool: Tool, wide: Path, tmp_path: Path) -> None:
    options = ["--type", "q4_k", "--tensor-type", "attn_v=q8_0", "--pure"]
    assert tool(wide, "--dry-run", "--json", *options) == 0
    planned = {name: tensor["type"] for name, tensor in tool.plan().items()}
    assert tool(wide, tmp_path / "out.gguf", *options) == 0
    assert types(tmp_path / "out.gguf") == planned
    assert list(types(tmp_path / "out.gguf")) == list(planned)


def test_plan_as_table(tool: Tool, wide: Path) -> None:
    assert tool(wide, "ignored.gguf", "--type", "Q4_K_M", "--dry-run") == 0
    lines = tool.stdout.splitlines()
    assert lines[0].split() == ["name", "shape", "source", "type", "bytes", "rule"]
    assert lines[1].split()[:5] == ["output_norm.weight", "256", "F32", "F32", "1,024"]
    assert lines[-1].endswith("bits per weight")
    assert tool.stderr == ""


def test_plan_of_a_file_without_tensor_data(tool: Tool, tmp_path: Path) -> None:
    model = MODELS["meta-llama-3.1-70b-instruct"]
    path = model.write(tmp_path / "header.gguf")
    assert tool(path, "--type", "q4_k", "--dry-run", "--json") == 0
    assert tool.plan().keys() == dict(model.tensors()).keys()
    assert tool(path, tmp_path / "out.gguf", "--type", "q4_k") == 3
    assert "the file has" in tool.error


def test_plan_warns_that_an_imatrix_will_be_needed(
    tool: Tool, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool(wide, "--type", "q2_k_s", "--dry-run") == 0
    assert "converting will need --imatrix FILE" in tool.stderr
    assert tool(wide, tmp_path / "out.gguf", "--type", "q2_k_s") == 1
    assert "--imatrix" in tool.error
    monkeypatch.chdir(write_imatrix_gguf(SOURCES["tied"], tmp_path).parent)
    assert tool(wide, "--type", "q2_k_s", "--dry-run", "--imatrix", IMATRIX) == 0
    assert tool.stderr == ""


# --- flags -------------------------------------------------------------------------------------


def test_every_type_option_reaches_the_recipe(tool: Tool, tmp_path: Path) -> None:
    untied = SOURCES["wide"].write(tmp_path)
    options = {
        ("--output-tensor-type", "q8_0"): ("output.weight", "Q8_0"),
        ("--token-embedding-type", "q5_0"): ("token_embd.weight", "Q5_0"),
        ("--leave-output-tensor",): ("output.weight", "F32"),
        ("--pure",): ("output.weight", "Q4_K"),
        ("--tensor-type", "attn_k=q6_k", "--tensor-type", "k=q8_0"): (
            "blk.0.attn_k.weight",
            "Q6_K",
        ),
    }
    for option, (name, wanted) in options.items():
        assert tool(untied, "--type", "q4_k", "--dry-run", "--json", *option) == 0
        assert tool.plan()[name]["type"] == wanted


def test_no_fallback_is_an_error(tool: Tool, directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert tool(directory, out, "--type", "q4_k", "--no-fallback") == 1
    assert "--no-fallback: 30 of 40 tensors" in tool.error
    assert not out.exists()


def test_quantizing_twice_must_be_asked_for(tool: Tool, wide: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "q8.gguf", tmp_path / "q4.gguf"
    assert tool(wide, once, "--type", "q8_0") == 0
    assert tool(once, twice, "--type", "q4_0") == 3
    assert "--allow-requantize" in tool.error
    assert not twice.exists()
    assert tool(once, twice, "--type", "q4_0", "--allow-requantize") == 0
    assert "Q4_0" in types(twice).values()


@pytest.mark.parametrize(
    ("options", "shards"),
    [
        (["--split-max-tensors", "30"], 3),
        (["--split-max-size", "2M"], 3),
        (["--split-max-tensors", "40", "--no-tensor-first-split"], 3),
    ],
)
def test_shards(options: list[str], shards: int, tool: Tool, wide: Path, tmp_path: Path) -> None:
    assert tool(wide, tmp_path / "whole.gguf", "--type", "q8_0") == 0
    assert tool(wide, tmp_path / "part.gguf", "--type", "q8_0", *options) == 0
    first = tmp_path / f"part-00001-of-{shards:05d}.gguf"
    assert f"ggq-run {first}" in tool.stderr
    with Reader(first) as split, Reader(tmp_path / "whole.gguf") as whole:
        assert len(split.paths) == shards
        assert split.tensors.keys() == whole.tensors.keys()
        for name, tensor in whole.tensors.items():
            assert split.tensors[name].data.tobytes() == tensor.data.tobytes()
    assert tool(first, tmp_path / "joined.gguf", "--type", "copy") == 0
    assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert tool(first, first.with_name("part.gguf"), "--type", "copy", *options) == 2


def test_name_of_the_model(tool: Tool, directory: Path, wide: Path, tmp_path: Path) -> None:
    for source in (directory, wide):
        out = tmp_path / "out.gguf"
        assert tool(source, out, "--type", "f16", "--model-name", "My model") == 0
        with Reader(out) as reader:
            assert reader.metadata["general.name"] == "My model"


BAD_USE = [
    (["{dir}", "out.gguf", "--type", "q4_q"], 2, "known: F32"),
    (["{dir}", "out.gguf", "--compat", "other"], 2, "invalid choice"),
    (["{dir}"], 2, "OUT.gguf is missing"),
    ([], 2, "SOURCE"),
    (["{dir}", "out.gguf", "--json"], 2, "--dry-run"),
    (["{dir}", "out.gguf", "--threads", "0"], 2, "number from 1"),
    (["{dir}", "out.gguf", "--threads", "x"], 2, "number from 1"),
    (["{dir}", "out.gguf", "--split-max-size", "2T"], 2, "not a size"),
    (["{dir}", "out.gguf", "--split-max-size", "0"], 2, "not a size"),
    (["{dir}", "out.gguf", "--tensor-type", "attn_v"], 2, "REGEX=TYPE"),
    (["{dir}", "out.gguf", "--tensor-type", "(=q8_0"], 2, "regular expression"),
    (["{dir}", "out.gguf", "--output-tensor-type", "q8_1"], 2, "cannot be written"),
    (["{dir}", "out.gguf", "--no-such-flag"], 2, "unrecognized"),
    (["{dir}", "{dir}"], 2, "not a regular file"),
    (["{dir}", "nowhere/out.gguf"], 4, "does not exist"),
    (["{dir}", "out.gguf", "--imatrix", "none.gguf"], 4, "none.gguf"),
    (["nothing", "out.gguf"], 4, "no such file or directory"),
    (["{dir}/config.json", "out.gguf"], 2, "name its directory"),
    (["{dir}/tokenizer.json", "out.gguf"], 3, "not a GGUF file"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_USE)
def test_bad_use_is_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    tool: Tool,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = directory.parent
    monkeypatch.chdir(folder)
    assert tool(*(text.format(dir=directory) for text in arguments)) == code
    assert message in tool.error
    assert tool.stdout == ""
    assert list(folder.iterdir()) == [directory]


def test_out_that_is_the_source(tool: Tool, wide: Path, directory: Path) -> None:
    before = wide.read_bytes()
    assert tool(wide, wide, "--type", "q8_0") == 2
    assert "this is the source file" in tool.error
    assert wide.read_bytes() == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert tool(directory, directory / name, "--type", "q8_0") == 2


def test_notes_come_before_the_result(tool: Tool, tmp_path: Path) -> None:
    folder = TINY["mistral"].write_hf(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 16}))
    assert tool(folder, tmp_path / "out.gguf", "--type", "f32", "--quiet") == 0
    note, result = tool.stderr.splitlines()
    assert note.startswith("ggq-convert: note: the attention window of 16 tokens is left out")
    assert "MB" in result


def test_help_is_quick_and_imports_no_compiler() -> None:
    code = (
        "import sys; sys.argv = ['ggq-convert', '--help']\n"
        "from ggq.convert import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'numba', 'llvmlite', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for flag in (
        "--type", "--compat", "--pure", "--tensor-type", "--output-tensor-type",
        "--token-embedding-type", "--imatrix", "--leave-output-tensor", "--split-max-size",
        "--split-max-tensors", "--threads", "--no-fallback", "--dry-run", "--json",
        "--allow-requantize",
    ):  # fmt: skip
        assert flag in done.stdout
