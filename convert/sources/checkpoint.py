"""The weights of a model directory: one safetensors file, or shards listed by an index.

Tensor names are those of the text model: the part that a multimodal checkpoint adds is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ggq.convert.sources.json_file import read_json
from ggq.convert.sources.safetensors import SafeTensor, SafetensorsFile
from ggq.errors import ConvertError, MissingFileError, PickleError

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")

# Parts of a multimodal checkpoint beside its text model; llama.cpp conversion/base.py.
_NOT_TEXT = re.compile(
    r"(^|\.)(vision_tower|vision_model|visual|vision_\w+|audio_\w+|audio|multi_modal_projector|"
    r"multimodal_projector|mm_projector|image_newline)\."
)
# Buffers of old checkpoints that hold nothing a model needs.
_UNUSED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


@dataclass
class Checkpoint:
    """All tensors by name, with the file each is in. `left_out`: part -> (tensors, bytes)."""

    tensors: dict[str, tuple[SafetensorsFile, SafeTensor]] = field(default_factory=dict)
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)


def open_checkpoint(model_dir: Path) -> Checkpoint:
    """The weights in `model_dir`. Raises ConvertError and its subclasses."""
    index = model_dir / INDEX
    weight_map = _weight_map(index) if index.is_file() else None
    names = sorted(set(weight_map.values())) if weight_map is not None else _unindexed(model_dir)
    checkpoint = Checkpoint()
    found: dict[str, str] = {}
    for name in names:
        path = model_dir / name
        if not path.is_file():
            raise MissingFileError(f"{path}: this shard is missing; download it again")
        file = SafetensorsFile(path)
        for tensor in file.tensors.values():
            if tensor.name in found:
                raise ConvertError(f"tensor {tensor.name} is in {found[tensor.name]} and in {name}")
            found[tensor.name] = name
            _sort_in(checkpoint, file, tensor)
    if weight_map is not None:
        _compare(index, weight_map, found)
    return checkpoint


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name. Raises ConvertError for a name that leaves the directory."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConvertError(f"{index}: weight_map is not an object with tensor names")
    for file_name in set(map(str, weight_map.values())):
        if file_name != Path(file_name).name or "\\" in file_name or not file_name.isprintable():
            raise ConvertError(
                f"{index}: the shard {file_name!r} is not a plain file name: "
                "shards must be in the model directory"
            )
        if not file_name.endswith(".safetensors"):
            raise ConvertError(f"{index}: the shard {file_name!r} is not a safetensors file")
    return {str(name): str(file_name) for name, file_name in weight_map.items()}


def _unindexed(model_dir: Path) -> list[str]:
    """Names of the files of a checkpoint without index. Raises if there is none or one lacks."""
    names = sorted(path.name for path in model_dir.glob("model*.safetensors"))
    for name in names:
        if shard := _SHARD.fullmatch(name):
            stem, _, count = shard.groups()
            wanted = [f"{stem}-{n:05d}-of-{count}.safetensors" for n in range(1, int(count) + 1)]
            for one in wanted:
                if one not in names:
                    raise MissingFileError(f"{model_dir / one}: this shard is missing")
    if names:
        return names
    pickles = sorted(path.name for pattern in PICKLES for path in model_dir.glob(pattern))
    if pickles:
        raise PickleError(
            f"{model_dir / pickles[0]}: the weights are pickled, and reading a pickle can run "
            "code; save them as safetensors first: in transformers, "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    raise MissingFileError(
        f"{model_dir}: there are no weights here; wanted is model.safetensors or {INDEX}"
    )


def _sort_in(checkpoint: Checkpoint, file: SafetensorsFile, tensor: SafeTensor) -> None:
    if tensor.name.endswith(_UNUSED):
        return
    if part := _NOT_TEXT.search(tensor.name):
        count, nbytes = checkpoint.left_out.get(part[2], (0, 0))
        checkpoint.left_out[part[2]] = (count + 1, nbytes + tensor.nbytes)
        return
    name = tensor.name.replace("language_model.", "")
    if name in checkpoint.tensors:
        raise ConvertError(f"{file.path}: tensor {name} occurs twice")
    checkpoint.tensors[name] = (file, tensor)


def _compare(index: Path, weight_map: dict[str, str], found: dict[str, str]) -> None:
    for name, file_name in weight_map.items():
        if found.get(name) != file_name:
            raise ConvertError(
                f"{index}: tensor {name} is said to be in {file_name}, but it is "
                f"{'in ' + found[name] if name in found else 'not there'}"
            )
    for name, file_name in found.items():
        if name not in weight_map:
            raise ConvertError(f"{index}: tensor {name} of {file_name} is not listed")
