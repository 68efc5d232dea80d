"""ggq-export: a GGUF model as a Hugging Face directory, and back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ggq.convert import cli
from ggq.convert.export import cli as export_cli
from ggq.convert.export import model_dir as export
from ggq.convert.sources.model_dir import open_model_dir
from ggq.errors import FormatError, UnsupportedModelError, UsageError
from ggq.reader import Reader
from ggq.runtime.tokenizer import from_metadata
from tests.gguf_file import Key, float_tensor, write_gguf
from tests.models import TINY
from tests.oracles import sha256

REFERENCE = json.loads((Path(__file__).parent / "golden" / "arch_reference.json").read_text())
TEXT = "Hello world! 12345 naïve café 你好 🙂\n\n\tdef f(x):  return x**2  # done."


def run(main: object, patch: pytest.MonkeyPatch, *arguments: object) -> int:
    patch.setattr("sys.argv", ["tool", *map(str, arguments)])
    try:
        return main()  # type: ignore[operator]
    except SystemExit as end:
        return int(end.code or 0)


def assert_comes_back(folder: Path, model: Path) -> None:
    """As a source, the folder has the model's values in F32, its keys, tokens and token ids."""
    source = open_model_dir(folder)
    made = {tensor.info.name: tensor for tensor in source.tensors}
    with Reader(model) as wanted:
        assert made.keys() == wanted.tensors.keys()
        for name, tensor in wanted.tensors.items():
            assert made[name].info.type.name == "F32"
            assert made[name].info.shape == tensor.shape
            x = made[name].floats(0, made[name].n_rows)
            assert np.array_equal(x.reshape(-1), tensor.dequantize().reshape(-1)), name
            tensor.release()
        arch = wanted.metadata["general.architecture"]
        for key in wanted.metadata:
            # Lengths that follow from others need no key.
            if key.startswith(f"{arch}.") and not key.endswith(("_length", "vocab_size")):
                assert source.metadata[key] == wanted.metadata[key]
        for name in ("tokens", "token_type", "merges", "scores"):
            key = f"tokenizer.ggml.{name}"
            assert (key in source.metadata) == (key in wanted.metadata)
            if key in wanted.metadata:
                assert list(source.metadata[key]) == list(wanted.metadata[key])
        for key in ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id"):
            assert source.metadata.get(key) == wanted.metadata.get(key)
        ids = [from_metadata(each).encode(TEXT) for each in (source.metadata, wanted.metadata)]
        assert ids[0] == ids[1]


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_come_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY[name].write_gguf(tmp_path / "model.gguf")
    assert run(export_cli.main, monkeypatch, model, tmp_path / "hf", "--quiet") == 0
    assert_comes_back(tmp_path / "hf", model)
    tensors = TINY[name].tensors()
    with safe_open(tmp_path / "hf" / "model.safetensors", "np") as exported:
        assert set(exported.keys()) == tensors.keys()
        for key, x in tensors.items():
            # Gemma's norms come as (1 + w) - 1, which drops what 1 + w had rounded away.
            wanted = (x + np.float32(1)) - np.float32(1) if is_gemma_norm(name, key) else x
            assert exported.get_tensor(key).tobytes() == wanted.tobytes()


def is_gemma_norm(name: str, key: str) -> bool:
    return name == "gemma3" and key.endswith("norm.weight")


def assert_converts_like_the_reference(name: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The exported folder, by llama.cpp's own converter and llama-quantize."""
    out = folder.parent / "out.gguf"
    how = ["--type", "q4_k", "--compat", "llama", "--quiet"]
    assert run(cli.main, patch, folder, out, *how) == 0
    assert sha256(out) == REFERENCE[f"exported {name}"]["files"]["Q4_K_M"]


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not outlive the test: there will be a gigabyte in it."""
    yield tmp_path / "hf"
    shutil.rmtree(tmp_path)


def test_smollm2_comes_back(smollm2: Path, roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(export_cli.main, monkeypatch, smollm2, roomy, "--quiet") == 0
    assert_comes_back(roomy, smollm2)
    assert_converts_like_the_reference("smollm2", roomy, monkeypatch)
    config = json.loads((roomy / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is True
    assert_values_are_those_of_the_gguf_package(smollm2, roomy)


def assert_values_are_those_of_the_gguf_package(model: Path, folder: Path) -> None:
    """One permuted and one plain matrix, dequantized by other code."""
    by_name = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    weights = load_file(folder / "model.safetensors")
    for name, source in (("attn_q", "self_attn.q_proj"), ("ffn_up", "mlp.up_proj")):
        tensor = by_name[f"blk.3.{name}.weight"]
        x = gguf.dequantize(tensor.data, tensor.tensor_type)
        if name == "attn_q":
            x = x.reshape(9, 32, 2, -1).swapaxes(1, 2).reshape(x.shape)
        assert weights[f"model.layers.3.{source}.weight"].tobytes() == x.tobytes()


def test_gemma3_comes_back(gemma3: Path, roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(export_cli.main, monkeypatch, gemma3, roomy, "--quiet") == 0
    assert_comes_back(roomy, gemma3)
    assert_converts_like_the_reference("gemma3", roomy, monkeypatch)
    assert (roomy / "tokenizer.model").is_file()


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY["qwen3"].write_gguf(tmp_path / "model.gguf")
    options = ["--max-shard-size", "200K", "--quiet"]
    assert run(export_cli.main, monkeypatch, model, tmp_path / "hf", *options) == 0
    shards = sorted(path.name for path in (tmp_path / "hf").glob("*.safetensors"))
    assert shards == [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, 6)]
    for shard in shards:
        load_file(tmp_path / "hf" / shard)
    assert_comes_back(tmp_path / "hf", model)


def test_again_and_over_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = TINY["llama"].write_gguf(tmp_path / "model.gguf")
    out = tmp_path / "hf"
    assert run(export_cli.main, monkeypatch, model, out) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"try it: ggq-convert {out} OUT.gguf --type q4_k" in said.err
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "model.safetensors").write_bytes(b"broken")
    assert run(export_cli.main, monkeypatch, model, out) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 'notes\.txt'"):
        export.export(model, out)
    with pytest.raises(UsageError, match="this is a file"):
        export.export(model, model)
    assert run(export_cli.main, monkeypatch, model, tmp_path / "no" / "hf") == 4
    assert run(export_cli.main, monkeypatch, tmp_path / "none.gguf", tmp_path / "x") == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model.gguf"]


def test_nothing_remains_of_a_failed_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TINY["llama"].write_gguf(tmp_path / "model.gguf")
    out = tmp_path / "hf"
    export.export(model, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(export, "_to_hf", fail)
    assert run(export_cli.main, monkeypatch, model, out) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model.gguf"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    keys = [Key("general.architecture", "str", "bert")]
    path = write_gguf(tmp_path / "m.gguf", keys, [float_tensor("a", np.ones(1, np.float32))])
    with pytest.raises(UnsupportedModelError, match="'bert' is not implemented"):
        export.export(path, tmp_path / "hf")
    model = TINY["llama"]
    path = model.write_gguf(tmp_path / "m.gguf")
    raw = path.read_bytes().replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_UP.weight")
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"blk\.0\.ffn_up\.weight of shape .* is missing"):
        export.export(path, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
