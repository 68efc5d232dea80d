"""Two tiny files of one model, one of them coarser, and text for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ggq.convert.eval import Chunks
from tests.gguf_file import TensorSpec, float_tensor, write_gguf
from tests.models import TINY, gguf_keys, gguf_tensors

MODEL = TINY["llama"]
TEXT = "the thin red line of the sea and the land; she said: in on at he re. " * 12


def write_pair(folder: Path) -> tuple[Path, Path]:
    """f32.gguf and coarse.gguf, whose weights are rounded to tenths."""
    specs = [*gguf_tensors("llama", MODEL.config, MODEL.tensors())]
    keys = gguf_keys("llama", MODEL.config, "coarse")
    coarse = write_gguf(folder / "coarse.gguf", keys, [_coarse(spec) for spec in specs])
    return MODEL.write_gguf(folder / "f32.gguf"), coarse


def write_broken(path: Path) -> Path:
    """The model with a matrix that holds no numbers."""
    specs = [
        float_tensor(s.name, np.full(s.shape, np.nan)) if s.name == "blk.0.attn_q.weight" else s
        for s in gguf_tensors("llama", MODEL.config, MODEL.tensors())
    ]
    return write_gguf(path, gguf_keys("llama", MODEL.config, "nan"), specs)


def tiny_chunks(count: int = 3, n_ctx: int = 40) -> Chunks:
    """Seeded token ids."""
    ids = np.array(MODEL.prompt(count * n_ctx), np.int32)
    return Chunks(ids.reshape(count, n_ctx), bos=1)


def _coarse(spec: TensorSpec) -> TensorSpec:
    x = np.frombuffer(np.ascontiguousarray(spec.data), "<f4").reshape(spec.shape)
    return float_tensor(spec.name, np.round(x, 1) if x.ndim > 1 else x)
