"""A Hugging Face model directory as the source of a conversion.

Nothing in the directory is run: config.json is data, and code beside it is never imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggq.convert.sources.checkpoint import Checkpoint, open_checkpoint
from ggq.convert.sources.general import general_metadata, size_label
from ggq.convert.sources.json_file import read_json
from ggq.convert.sources.tensor_source import (
    CheckpointTensor,
    ComputedTensor,
    Source,
    StackedTensor,
    TensorSource,
)
from ggq.convert.writing.output_metadata import FILE_TYPE
from ggq.errors import ConvertError, FormatError, NotFoundError, UnsupportedModelError
from ggq.metadata import Metadata
from ggq.runtime.arch import Arch, TensorRule, by_hf
from ggq.spec import ValueType

# Files of a model directory that a conversion may read; an earlier output beside them is not one.
READ_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja")


def open_model_dir(model_dir: Path, *, name: str | None = None) -> Source:
    """The model in `model_dir`; `name` is written as general.name instead of a guessed one.

    Raises ConvertError, UnsupportedModelError, TokenizerError, NotFoundError.
    """
    from ggq.convert.vocab.metadata import tokenizer_metadata

    if not (model_dir / "config.json").is_file():
        raise NotFoundError(f"{model_dir}: there is no config.json; wanted is a model directory")
    config = text_config(read_json(model_dir / "config.json"))
    arch = by_hf(_class_name(config))
    arch.metadata(config)  # what is not implemented is refused before gigabytes are looked at
    checkpoint = open_checkpoint(model_dir)
    tokenizer = tokenizer_metadata(model_dir, config)
    metadata = Metadata(model_dir)
    for key, kind, value in general_metadata(model_dir, arch.name, config, name):
        metadata.set(key, value, kind)
    metadata.set(FILE_TYPE, 0, ValueType.U32)
    for key, kind, value, *item_type in [*arch.metadata(config), *tokenizer]:
        metadata.set(key, value, kind, *item_type)
    tensors = _tensors(arch, metadata, config, checkpoint)
    size = size_label(tensor.info for tensor in tensors)
    metadata.set("general.size_label", size, ValueType.STRING)
    notes = [*arch.notes(config), *_left_out(checkpoint)]
    files = [path for path in model_dir.iterdir() if path.suffix in READ_SUFFIXES]
    return Source(metadata, tensors, files, notes, is_checkpoint=True)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the keys of its text part at the top, as llama.cpp's converter sees it."""
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, dict):
        raise ConvertError("config.json: text_config is not an object")
    return {**config, **{key: value for key, value in text.items() if value is not None}}


def _class_name(config: dict[str, Any]) -> str:
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and isinstance(classes[0], str):
        return classes[0]
    raise UnsupportedModelError(
        f"config.json: architectures is {classes!r}, wanted a list with the name of a model class"
    )


def _tensors(
    arch: Arch, metadata: Metadata, config: dict[str, Any], checkpoint: Checkpoint
) -> list[TensorSource]:
    try:
        rules = arch.tensors(arch.hparams(metadata))
    except FormatError as error:
        raise ConvertError(str(error)) from None
    computed = dict(arch.extra_tensors(config))
    unplaced = set(checkpoint.tensors)
    tensors: list[TensorSource] = []
    for rule in rules:
        missing = [name for name in rule.sources if name not in checkpoint.tensors]
        if rule.source is None:
            if rule.name in computed:
                tensors.append(ComputedTensor(rule.name, computed[rule.name]))
        elif not missing:
            tensors.append(_placed(rule, checkpoint))
            unplaced.difference_update(rule.sources)
        elif not rule.optional or _untied_head(rule, config):
            raise ConvertError(
                f"tensor {missing[0]} of shape {list(rule.source_shape)} "
                "is missing in the checkpoint"
            )
    if unplaced:
        raise ConvertError(
            f"tensor {min(unplaced)} has no place in architecture {arch.name} "
            f"({len(unplaced)} such tensors)"
        )
    return tensors


def _placed(rule: TensorRule, checkpoint: Checkpoint) -> TensorSource:
    parts = []
    for name in rule.sources:
        file, tensor = checkpoint.tensors[name]
        _check_shape(rule, name, tensor.shape)
        parts.append(CheckpointTensor(file, tensor, rule))
    return StackedTensor(parts, rule) if rule.is_stack else parts[0]


def _check_shape(rule: TensorRule, name: str, shape: tuple[int, ...]) -> None:
    wanted = rule.source_shape
    # There may be more rows than tokens; those beyond are never used.
    rows_to_spare = rule.role in ("token_embd", "output") and shape[:1] > wanted[:1]
    if shape != wanted and not (rows_to_spare and shape[1:] == wanted[1:]):
        raise ConvertError(
            f"tensor {name} has shape {list(shape)}, but config.json asks for {list(wanted)}"
        )


def _untied_head(rule: TensorRule, config: dict[str, Any]) -> bool:
    return rule.role == "output" and config.get("tie_word_embeddings") is False


def _left_out(checkpoint: Checkpoint) -> list[str]:
    parts = [
        f"{part} ({count} tensors, {nbytes / 1e6:,.0f} MB)"
        for part, (count, nbytes) in checkpoint.left_out.items()
    ]
    return [f"only the text part is converted; left out: {', '.join(parts)}"] if parts else []
