"""Full-precision stand-ins for the published models, whose own weights lie on the grids of types.

Dequantize, add noise of half a step, and widen so that every row is a multiple of 256 weights and
k-quants apply: the function stays that of the dithered weights. The seed is the noise's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.gguf_file import Key, float_tensor, write_gguf
from tests.models import F32Array, gguf_name, write_json

EIGHT_BIT = ("Q8_0", "Q8_1", "Q8_K")
RUN = 32  # consecutive weights that share a step
KINDS = {"uint32": "u32", "int32": "i32", "float32": "f32", "bool": "bool", "string": "str"}


def dither(x: F32Array, eight_bit: bool, rng: np.random.Generator) -> F32Array:
    """x plus uniform noise in +- half a step of its own grid, (max - min) / 15 or / 255 of 32."""
    runs = x.reshape(-1, RUN)
    step = (runs.max(axis=1, keepdims=True) - runs.min(axis=1, keepdims=True)) / np.float32(
        255 if eight_bit else 15
    )
    noise = rng.random(runs.shape, np.float32) - np.float32(0.5)
    return (runs + noise * step).reshape(x.shape)


def spread(x: F32Array, axis: int, kept: int) -> F32Array:
    """Insert a zero after every `kept` entries of `axis`."""
    shape = (*x.shape[:axis], x.shape[axis] // kept, kept, *x.shape[axis + 1 :])
    padding = [(0, 0)] * len(shape)
    padding[axis + 1] = (0, 1)
    wide = (*x.shape[:axis], x.shape[axis] // kept * (kept + 1), *x.shape[axis + 1 :])
    return np.pad(x.reshape(shape), padding).reshape(wide)


RESIDUAL_COLUMNS = ("token_embd", "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
RESIDUAL_ROWS = ("attn_output", "ffn_down")
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")


def _part(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def _widen_residual(part: str, x: F32Array, kept: int) -> F32Array:
    """New channels of the residual are zero: in what reads it, in what adds to it, in its norms.

    The mean square the norms divide by is kept / (kept + 1) of the old one: their weights carry the
    root of it, the model's eps the whole.
    """
    if part.endswith("_norm") and part not in HEAD_NORMS:
        return spread(x * np.float32((kept / (kept + 1)) ** 0.5), 0, kept)
    if part in RESIDUAL_COLUMNS:
        return spread(x, 1, kept)
    return spread(x, 0, kept) if part in RESIDUAL_ROWS else x


# --- SmolLM2: residual 576 -> 768, heads 9/3 -> 12/4 --------------------------------------------

SMOLLM2_HF = {"hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 4}
NEW_HEAD_ROWS = {"attn_q": 192, "attn_k": 64, "attn_v": 64}


def widen_smollm2(name: str, x: F32Array) -> F32Array:
    """GGUF name, array of SmolLM2-135M -> array of the widened model.

    Every fourth residual channel is new. The new heads are one whole group at the end whose rows,
    and columns in attn_output, are zero.
    """
    part = _part(name)
    x = _widen_residual(part, x, 3)
    if part == "attn_output":
        x = np.pad(x, ((0, 0), (0, 192)))
    return np.pad(x, ((0, NEW_HEAD_ROWS[part]), (0, 0))) if part in NEW_HEAD_ROWS else x


# --- Gemma 3 270M: residual 640 -> 768 ----------------------------------------------------------

GEMMA3_KEPT = 640 / 768


def widen_gemma3(name: str, x: F32Array) -> F32Array:
    """GGUF name, array of Gemma-3-270M -> array of the widened model.

    Every sixth residual channel is new. Tokens enter times sqrt(768) now instead of sqrt(640), so
    the table is smaller by that; it is also the output matrix, so the last norm is larger by it.
    The norms of single heads keep their width; only eps, shared by all norms, changes for them.
    """
    part = _part(name)
    if part == "token_embd":
        x = x * np.float32(GEMMA3_KEPT**0.5)
    if part == "output_norm":
        x = x * np.float32(GEMMA3_KEPT**-0.5)
    return _widen_residual(part, x, 5)


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standin:
    """How one published model is widened, and the keys of its file that change with that."""

    widen: Callable[[str, F32Array], F32Array]
    keys: dict[str, Any]


STANDINS = {
    "llama": Standin(
        widen_smollm2,
        {
            "llama.embedding_length": 768,
            "llama.attention.head_count": 12,
            "llama.attention.head_count_kv": 4,
            "llama.attention.layer_norm_rms_epsilon": 0.75e-5,
        },
    ),
    "gemma3": Standin(
        widen_gemma3,
        {
            "gemma3.embedding_length": 768,
            "gemma3.attention.layer_norm_rms_epsilon": 1e-6 * GEMMA3_KEPT,
        },
    ),
}


def write_standin(published: Path, path: Path, seed: int | None = 0) -> Path:
    """Widened F32 GGUF of a published file, read by gguf-py: 764 MB of SmolLM2, 1.2 GB of Gemma.

    `seed` of the noise; None: none, so the model computes what the published one does.
    """
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(published)
    arch = reader.fields["general.architecture"].contents()
    standin, rng = STANDINS[arch], np.random.default_rng(seed)
    specs = []
    for tensor in reader.tensors:
        x = dequantize(tensor.data, tensor.tensor_type)
        if seed is not None and x.ndim == 2:
            x = dither(x, tensor.tensor_type.name in EIGHT_BIT, rng)
        specs.append(float_tensor(tensor.name, standin.widen(tensor.name, x)))
    changed = {"general.file_type": 0} | standin.keys
    keys = []
    for field in reader.fields.values():
        if field.name.startswith("GGUF."):
            continue
        kind = "".join("[" if t.name == "ARRAY" else KINDS[t.name.lower()] for t in field.types)
        keys.append(Key(field.name, kind, changed.get(field.name, field.contents())))
    return write_gguf(path, keys, specs)


def write_widened_hf(exported: Path, folder: Path) -> Path:
    """Widened Hugging Face directory from the one ggq-export wrote of SmolLM2."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    config |= SMOLLM2_HF | {"rms_norm_eps": config["rms_norm_eps"] * 0.75}
    config.pop("head_dim", None)
    write_json(folder / "config.json", config)
    tensors = {
        name: widen_smollm2(gguf_name("llama", name), x.astype(np.float32))
        for shard in sorted(exported.glob("*.safetensors"))
        for name, x in load_file(shard).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
