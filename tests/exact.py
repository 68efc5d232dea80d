"""Exact logits of a file: those of the same weights as singles, where no activation is rounded."""

from __future__ import annotations

from pathlib import Path

import ggq
from ggq.blocks import by_name


def write_f32(source: Path, target: Path) -> Path:
    """The model `source` with every tensor dequantized."""
    with ggq.open(source) as reader:
        metadata = reader.metadata.copy()
        metadata.set("general.file_type", 0, ggq.ValueType.U32)
        tensors = reader.tensors.values()
        infos = [ggq.TensorInfo(t.name, t.shape, by_name("F32")) for t in tensors]
        with ggq.Writer(target, metadata, infos) as writer:
            for tensor in tensors:
                writer.write(tensor.name, tensor.dequantize())
    return target
