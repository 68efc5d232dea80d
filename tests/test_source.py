"""Model directories as sources: layouts and precisions, and the traps in them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from ggq.convert.sources.checkpoint import INDEX
from ggq.convert.sources.model_dir import open_model_dir
from ggq.convert.sources.open import open_source
from ggq.convert.sources.tensor_source import Source
from ggq.errors import (
    ConvertError,
    GGQError,
    MissingFileError,
    NotFoundError,
    PickleError,
    SafetensorsError,
    UnsupportedModelError,
    UsageError,
)
from ggq.reader import Reader
from tests.gguf_file import bf16_bits
from tests.models import TINY, VOCAB_SIZE

F32 = npt.NDArray[np.float32]
EMBEDDING = "model.embed_tokens.weight"
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return TINY["llama"].write_hf(tmp_path / "llama")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def write_index(folder: Path, weight_map: dict[str, Any]) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def split(folder: Path) -> dict[str, str]:
    """Two shards with an index instead of one file."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for n, part in enumerate((names[:20], names[20:]), 1):
        file = f"model-{n:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_index(folder, weight_map)
    return weight_map


def values(source: Source) -> dict[str, F32]:
    """Every tensor, read in two pieces where its layout allows that."""
    found = {}
    for tensor in source.tensors:
        middle = tensor.n_rows // 2 // tensor.group * tensor.group
        pieces = [tensor.floats(0, middle), tensor.floats(middle, tensor.n_rows)]
        found[tensor.info.name] = np.concatenate(pieces).reshape(tensor.info.shape)
    return found


def assert_same_tensors(source: Source, gguf: Path) -> None:
    made = values(source)
    with Reader(gguf) as reader:
        assert made.keys() == reader.tensors.keys()
        for name, tensor in reader.tensors.items():
            assert made[name].dtype == np.float32
            assert made[name].tobytes() == tensor.data.tobytes(), name


@pytest.mark.parametrize("name", TINY)
def test_tensors_and_keys_are_those_of_an_independent_file(name: str, tmp_path: Path) -> None:
    source = open_source(str(TINY[name].write_hf(tmp_path / "hf")))
    gguf = TINY[name].write_gguf(tmp_path / "m.gguf")
    assert_same_tensors(source, gguf)
    assert source.is_checkpoint
    with Reader(gguf) as reader:
        for key in reader.metadata:
            if key.split(".")[0] == TINY[name].gguf_arch and key != f"{name}.vocab_size":
                made = source.metadata.get(key, reader.metadata[key])
                assert made == reader.metadata[key]


def test_shards_are_one_model(llama: Path, tmp_path: Path) -> None:
    split(llama)
    source = open_model_dir(llama)
    assert_same_tensors(source, TINY["llama"].write_gguf(tmp_path / "m.gguf"))
    assert {path.name for path in source.files} >= {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "config.json",
    }


def test_shards_without_index(llama: Path, tmp_path: Path) -> None:
    split(llama)
    (llama / INDEX).unlink()
    assert_same_tensors(open_model_dir(llama), TINY["llama"].write_gguf(tmp_path / "m.gguf"))
    (llama / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(MissingFileError, match="model-00001-of-00002"):
        open_model_dir(llama)


def saved_as(folder: Path, dtype: str) -> None:
    """Store every tensor of the one file in another precision."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    header: dict[str, Any] = {}
    data = b""
    for name, x in tensors.items():
        raw = bf16_bits(x).tobytes() if dtype == "BF16" else x.astype(NUMPY[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": x.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


NUMPY = {"F16": "<f2", "F64": "<f8", "I8": "i1", "I64": "<i8"}


@pytest.mark.parametrize("dtype", ["BF16", *NUMPY])
def test_every_precision_is_read_exactly(dtype: str, llama: Path) -> None:
    wanted = load_file(llama / "model.safetensors")[EMBEDDING]
    saved_as(llama, dtype)
    source = open_model_dir(llama)
    tensor = next(t for t in source.tensors if t.info.name == "token_embd.weight")
    block = dtype if dtype in ("BF16", "F16", "F64") else "F32"
    assert tensor.info.type.name == block
    if dtype == "BF16":
        wanted = (bf16_bits(wanted).astype("<u4") << 16).view("<f4")
    else:
        wanted = wanted.astype(NUMPY[dtype]).astype(np.float32)
    assert tensor.floats(0, VOCAB_SIZE).tobytes() == wanted.tobytes()


def test_gemma_norms_in_half_precision_are_raised_in_half_precision(tmp_path: Path) -> None:
    """llama.cpp's converter adds 1 before it widens F16."""
    folder = TINY["gemma3"].write_hf(tmp_path / "hf")
    norm = load_file(folder / "model.safetensors")["model.norm.weight"].astype(np.float16)
    saved_as(folder, "F16")
    wanted = (norm + np.float16(1)).astype(np.float32)
    assert np.array_equal(values(open_model_dir(folder))["output_norm.weight"], wanted)


def test_rows_beyond_the_vocabulary_are_dropped(llama: Path) -> None:
    def grow(tensors: dict[str, Any]) -> None:
        tensors[EMBEDDING] = np.pad(tensors[EMBEDDING], ((0, 8), (0, 0)))

    edit_tensors(llama, grow)
    assert values(open_model_dir(llama))["token_embd.weight"].shape == (VOCAB_SIZE, 64)


def test_text_part_of_a_multimodal_checkpoint(tmp_path: Path) -> None:
    folder = TINY["gemma3"].write_hf(tmp_path / "hf")
    text = TINY["gemma3"].config | {"architectures": None}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (folder / "config.json").write_text(json.dumps(config))

    def rename(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"language_model.{name}"] = tensors.pop(name)
        tensors["vision_tower.vision_model.encoder.weight"] = np.zeros((250, 1000), np.float32)
        tensors["multi_modal_projector.mm_input_projection_weight"] = np.zeros(1, np.float32)

    edit_tensors(folder, rename)
    source = open_model_dir(folder)
    assert_same_tensors(source, TINY["gemma3"].write_gguf(tmp_path / "m.gguf"))
    assert source.notes == [
        "only the text part is converted; left out: multi_modal_projector (1 tensors, 0 MB), "
        "vision_tower (1 tensors, 1 MB)"
    ]


def test_name_size_and_sampling_defaults(llama: Path) -> None:
    (llama / "generation_config.json").write_text(
        json.dumps({"temperature": 0.6, "top_k": 20, "top_p": None, "repetition_penalty": 1.1})
    )
    metadata = open_model_dir(llama, name="A name").metadata
    assert metadata["general.name"] == "A name"
    assert metadata["general.sampling.temp"] == pytest.approx(0.6)
    assert metadata["general.sampling.top_k"] == 20
    assert metadata["general.sampling.penalty_repeat"] == pytest.approx(1.1)
    assert "general.sampling.top_p" not in metadata
    assert metadata["general.size_label"] == "134K"
    edit_config(llama, _name_or_path="org/my-Model-v2-1b")
    assert open_model_dir(llama).metadata["general.name"] == "My Model v2 1b"
    edit_config(llama, _name_or_path="a/b/c")
    assert open_model_dir(llama).metadata["general.name"] == "Llama"


# --- traps -------------------------------------------------------------------------------------


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def config_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def config_deep(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def unknown_class(folder: Path) -> None:
    edit_config(folder, architectures=["BertModel"])


def no_class(folder: Path) -> None:
    edit_config(folder, architectures=[])


def text_config_list(folder: Path) -> None:
    edit_config(folder, text_config=[])


def quantized_checkpoint(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq"})


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    no_weights(folder)
    bomb = pickle.dumps(Bomb())
    (folder / "pytorch_model.bin").write_bytes(bomb)


class Bomb:
    """A pickle that would end the test run."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


def shard_missing(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_of(file_name: Any) -> Callable[[Path], None]:
    def break_index(folder: Path) -> None:
        shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
        write_index(folder, dict.fromkeys(split(folder), file_name))

    return break_index


def index_no_map(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": []}')


def index_lists_more(folder: Path) -> None:
    write_index(folder, split(folder) | {"extra.weight": "model-00001-of-00002.safetensors"})


def index_lists_less(folder: Path) -> None:
    weight_map = split(folder)
    del weight_map[EMBEDDING]
    write_index(folder, weight_map)


def index_in_other_shard(folder: Path) -> None:
    weight_map = split(folder)
    other = set(weight_map.values()) - {weight_map[EMBEDDING]}
    write_index(folder, weight_map | {EMBEDDING: other.pop()})


def tensor_twice(folder: Path) -> None:
    weight_map = split(folder)
    first = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(first)
    name = next(n for n, file in weight_map.items() if file != first.name)
    save_file(tensors | {name: np.zeros(1)}, first)


def tensor_missing(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(Q))


def tensor_transposed(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({Q: np.zeros((64, 63), np.float32)}))


def tensor_flat(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({Q: np.zeros(4096, np.float32)}))


def tensor_unknown(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"model.adapter.weight": np.zeros(3, np.float32)}))


def embedding_short(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({EMBEDDING: t[EMBEDDING][:-1]}))


def head_missing(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)


def layers_lie(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=5)


def layers_hidden(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3)


def heads_lie(folder: Path) -> None:
    edit_config(folder, num_key_value_heads=3)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def html(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>Not found</html>")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def weights_are_a_directory(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors").mkdir()


TRAPS: list[tuple[Callable[[Path], None], type[GGQError], str]] = [
    (no_config, NotFoundError, r"no config\.json"),
    (config_no_json, ConvertError, "not valid JSON"),
    (config_list, ConvertError, "a JSON object is wanted"),
    (config_deep, ConvertError, "not valid JSON"),
    (unknown_class, UnsupportedModelError, "'BertModel'.*known: .*LlamaForCausalLM"),
    (no_class, UnsupportedModelError, "architectures is"),
    (text_config_list, ConvertError, "text_config"),
    (quantized_checkpoint, UnsupportedModelError, "quantization_config.*gptq"),
    (no_weights, MissingFileError, "no weights"),
    (pickled, PickleError, r"pytorch_model\.bin.*save_pretrained"),
    (shard_missing, MissingFileError, "model-00002-of-00002.*missing"),
    (index_of("../outside.safetensors"), ConvertError, "not a plain file name"),
    (index_of("/etc/passwd"), ConvertError, "not a plain file name"),
    (index_of("..\\outside.safetensors"), ConvertError, "not a plain file name"),
    (index_of("a\0b.safetensors"), ConvertError, "not a plain file name"),
    (index_of(".."), ConvertError, "not a plain file name|not a safetensors file"),
    (index_of(""), ConvertError, "not a plain file name|not a safetensors file"),
    (index_of(7), ConvertError, "not a safetensors file"),
    (index_of("config.json"), ConvertError, "not a safetensors file"),
    (index_of("gone.safetensors"), MissingFileError, "gone"),
    (index_no_map, ConvertError, "weight_map"),
    (index_lists_more, ConvertError, r"extra\.weight.*not there"),
    (index_lists_less, ConvertError, "embed_tokens.*not listed"),
    (index_in_other_shard, ConvertError, "embed_tokens.*but it is in"),
    (tensor_twice, ConvertError, "is in .* and in"),
    (tensor_missing, ConvertError, r"q_proj\.weight of shape \[64, 64\] is missing"),
    (tensor_transposed, ConvertError, r"has shape \[64, 63\].*asks for \[64, 64\]"),
    (tensor_flat, ConvertError, r"has shape \[4096\].*asks for \[64, 64\]"),
    (tensor_unknown, ConvertError, r"model\.adapter\.weight has no place"),
    (embedding_short, ConvertError, r"has shape \[287, 64\]"),
    (head_missing, ConvertError, r"lm_head\.weight.*missing"),
    (layers_lie, ConvertError, r"layers\.4\..*missing"),
    (layers_hidden, ConvertError, r"layers\.3\..*has no place"),
    (heads_lie, ConvertError, "head_count_kv"),
    (truncated, SafetensorsError, "damaged or incomplete"),
    (html, SafetensorsError, "damaged or incomplete"),
    (no_tokenizer, NotFoundError, "no tokenizer"),
    (weights_are_a_directory, ConvertError, "not a regular file|no weights|missing"),
]


@pytest.mark.parametrize(("trap", "error", "message"), TRAPS)
def test_traps(
    trap: Callable[[Path], None], error: type[GGQError], message: str, llama: Path
) -> None:
    trap(llama)
    with pytest.raises(error, match=message):
        open_model_dir(llama)


def test_unused_buffers_of_old_checkpoints_are_ignored(llama: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(llama, lambda tensors: tensors.update({name: np.zeros(8, np.float32)}))
    assert len(open_model_dir(llama).tensors) == len(TINY["llama"].tensors())


def test_code_beside_the_model_is_never_imported(llama: Path) -> None:
    (llama / "modeling_custom.py").write_text("raise SystemExit('imported')\n")
    edit_config(llama, auto_map={"AutoModelForCausalLM": "modeling_custom.Model"})
    open_model_dir(llama)
    assert not any("modeling_custom" in name for name in sys.modules)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_model_is_not_the_model(name: str, llama: Path) -> None:
    with pytest.raises(UsageError, match="name its directory"):
        open_source(str(llama / name))


@pytest.mark.parametrize("given", ["nowhere", "./no/such/dir", "/nowhere/x.gguf", "a/b/c", ""])
def test_nothing_there(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="no such file or directory"):
        open_source(given)
