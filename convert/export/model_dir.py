"""A GGUF model as a Hugging Face directory: the inverse of a conversion, weights in F32.

Memory: one chunk of a tensor at a time. Every layout is undone, so that converting the directory
again gives the same F32 tensors and the same tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ggq.atomic import check_space
from ggq.convert.export.replacing import replacing_dir
from ggq.convert.sources.checkpoint import INDEX
from ggq.convert.sources.general import SAMPLING
from ggq.convert.sources.gguf_source import open_gguf
from ggq.convert.sources.tensor_source import F32, Source, TensorSource
from ggq.convert.writing.progress import Progress
from ggq.metadata import Metadata
from ggq.runtime.arch import Arch, TensorRule, by_name, check_tensors
from ggq.runtime.arch._decoder import shortest

CHUNK_WEIGHTS = 1 << 22
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Exported:
    """One tensor of the checkpoint: rows from `first` on of a tensor of the file."""

    name: str
    rule: TensorRule
    tensor: TensorSource
    first: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the checkpoint."""
        return self.rule.source_shape

    @property
    def n_rows(self) -> int:
        """Rows; a vector is one."""
        return prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        """Bytes in F32."""
        return 4 * prod(self.shape)


def export(
    model: Path, out_dir: Path, *, shard_bytes: int = SHARD_BYTES, progress: bool = False
) -> int:
    """Write `model` (a GGUF file or its first shard) as `out_dir`; gives the bytes of the weights.

    `out_dir` appears when it is complete; an older export in its place is replaced.
    Raises FormatError, UnsupportedModelError, TokenizerError, UsageError, DiskFullError.
    """
    from ggq.convert.export.vocab import write_tokenizer

    source = open_gguf(model)
    arch = by_name(source.metadata.require("general.architecture", str))
    tensors = _tensors(arch, source)
    config = _config(arch, source)
    total = sum(tensor.nbytes for tensor in tensors)
    check_space(out_dir.resolve().parent, total)
    with (
        replacing_dir(out_dir) as folder,
        Progress(total // 4, progress, "exporting") as bar,
    ):
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", _generation_config(source.metadata))
        write_tokenizer(source.metadata, folder)
        _write_shards(folder, _shards(tensors, shard_bytes), bar)
    return total


def _tensors(arch: Arch, source: Source) -> list[Exported]:
    by_tensor = {tensor.info.name: tensor for tensor in source.tensors}
    rules = check_tensors(
        arch.tensors(arch.hparams(source.metadata)),
        {name: tensor.info.shape for name, tensor in by_tensor.items()},
    )
    exported = [
        Exported(source_name, rule, by_tensor[name], number * prod(rule.source_shape[:-1]))
        for name, rule in rules.items()
        for number, source_name in enumerate(rule.sources)
    ]
    for one in exported:
        if one.rule.transform is not None and len(one.shape) > 1:
            one.tensor.group = one.rule.transform.rows
    return exported


def _config(arch: Arch, source: Source) -> dict[str, Any]:
    tensors = {tensor.info.name: tensor for tensor in source.tensors}
    freqs = tensors.get("rope_freqs.weight")
    factors = None if freqs is None else freqs.floats(0, 1).reshape(-1)
    config = arch.config(source.metadata, factors)
    config["tie_word_embeddings"] = "output.weight" not in tensors
    if name := source.metadata.get_str("general.name", ""):
        config["_name_or_path"] = name
    return config


def _generation_config(metadata: Metadata) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, token in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (number := metadata.get_int(f"tokenizer.ggml.{token}_token_id", -1)) >= 0:
            config[f"{key}_token_id"] = number
    for name, key, _ in SAMPLING:
        if (value := metadata.get(f"general.sampling.{key}")) is not None:
            config[name] = shortest(value) if isinstance(value, float) else value
    return config


def _shards(tensors: list[Exported], shard_bytes: int) -> list[list[Exported]]:
    shards: list[list[Exported]] = [[]]
    for tensor in tensors:
        size = sum(one.nbytes for one in shards[-1])
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _write_shards(folder: Path, shards: list[list[Exported]], bar: Progress) -> None:
    if len(shards) == 1:
        _write_safetensors(folder / "model.safetensors", shards[0], bar)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(folder / name, shard, bar)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_safetensors(path: Path, tensors: list[Exported], bar: Progress) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for one in tensors:
        offsets = [position, position + one.nbytes]
        header[one.name] = {"dtype": "F32", "shape": one.shape, "data_offsets": offsets}
        position += one.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in tensors:
            columns = max(1, one.shape[-1])
            step = max(1, CHUNK_WEIGHTS // columns // one.tensor.group) * one.tensor.group
            last = one.first + one.n_rows
            for start in range(one.first, last, step):
                stop = min(start + step, last)
                file.write(_to_hf(one, one.tensor.floats(start, stop)).data)
                one.tensor.release(start, stop)
                bar.advance((stop - start) * columns)


def _to_hf(one: Exported, x: F32) -> F32:
    if one.rule.transform is None:
        return np.ascontiguousarray(x, "<f4")
    flat = x.reshape(-1) if len(one.shape) == 1 else x
    return np.ascontiguousarray(one.rule.transform.to_hf(flat), "<f4")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
