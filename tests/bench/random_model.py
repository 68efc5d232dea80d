"""Write a random model file of any size and type: python -m tests.bench.random_model OUT.gguf

    python -m tests.bench.random_model 1b.gguf --type Q4_K_M --shape 1b

Matrices are random blocks written as they are: any codes, and scales that give the weights mean 0
and a standard deviation of about 0.02. Speed is what such a file is for. `--type` is a tensor type
(all matrices get it) or a mixture of llama-quantize; names that are both mean the tensor type,
unless `--mixture` is given. The tokenizer is that of SmolLM2 (or of `--vocabulary`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

import ggq
from ggq import blocks
from ggq.blocks import BlockType
from ggq.convert.mixtures.model_facts import ModelFacts, order_key
from ggq.convert.mixtures.presets import GUESSED, Preset, guessed_file_type, preset, target_type
from ggq.convert.mixtures.recipe import Options, decide
from ggq.errors import UnknownPresetError
from ggq.metadata import Metadata
from ggq.spec import TensorInfo, ValueType
from tests import oracles

DEVIATION = 0.02
SPREAD = 0.2  # scales differ by as much in both directions
SIGNS = np.array([-1, 1], np.float32)
CHUNK = 1 << 24  # weights made at once
SCALE_BYTES = {"MXFP4": ("e", 119, 121), "NVFP4": ("d", 2, 6)}  # field, from, below


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head: int

    arch: ClassVar[str] = "llama"

    def tensors(self, n_vocab: int) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of all; rows first."""
        ends = {"token_embd": (n_vocab, self.hidden), "output": (n_vocab, self.hidden)}
        outer = [(f"{name}.weight", shape) for name, shape in ends.items()]
        outer.append(("output_norm.weight", (self.hidden,)))
        layer = {"attn_norm": (self.hidden,), "ffn_norm": (self.hidden,)}
        layer |= self.attention() | self.feed_forward()
        return outer + [
            (f"blk.{i}.{name}.weight", shape)
            for i in range(self.layers)
            for name, shape in layer.items()
        ]

    def attention(self) -> dict[str, tuple[int, ...]]:
        """Name in a layer -> shape."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        return {
            "attn_q": (q, self.hidden),
            "attn_k": (kv, self.hidden),
            "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, q),
        }

    def feed_forward(self) -> dict[str, tuple[int, ...]]:
        """Name in a layer -> shape."""
        inward = (self.ffn, self.hidden)
        return {"ffn_gate": inward, "ffn_up": inward, "ffn_down": inward[::-1]}

    def keys(self) -> dict[str, int]:
        """Metadata of these sizes."""
        return {
            "block_count": self.layers,
            "context_length": 32768,
            "embedding_length": self.hidden,
            "feed_forward_length": self.ffn,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head,
            "attention.value_length": self.head,
            "rope.dimension_count": self.head,
        }


@dataclass(frozen=True)
class ExpertShape(Shape):
    """Sizes of a Qwen3 with experts, each of width `ffn`."""

    experts: int
    used: int

    arch = "qwen3moe"

    def attention(self) -> dict[str, tuple[int, ...]]:
        """With norms of the heads."""
        return super().attention() | {"attn_q_norm": (self.head,), "attn_k_norm": (self.head,)}

    def feed_forward(self) -> dict[str, tuple[int, ...]]:
        """A router and stacks."""
        stacks = super().feed_forward().items()
        return {"ffn_gate_inp": (self.experts, self.hidden)} | {
            f"{name}_exps": (self.experts, *shape) for name, shape in stacks
        }

    def keys(self) -> dict[str, int]:
        """With those of the experts."""
        return super().keys() | {
            "expert_count": self.experts,
            "expert_used_count": self.used,
            "expert_feed_forward_length": self.ffn,
        }


SHAPES = {
    "tiny": Shape(256, 512, 2, 4, 2, 64),
    "135m": Shape(576, 1536, 30, 9, 3, 64),
    "1b": Shape(2048, 8192, 16, 32, 8, 64),
    "8b": Shape(4096, 14336, 32, 32, 8, 128),
    "moe-1b": ExpertShape(1024, 384, 16, 16, 4, 64, 64, 8),
    "moe-30b-slice": ExpertShape(2048, 768, 3, 32, 4, 128, 128, 8),
}


def write(path: Path, shape: Shape, mixture: Preset, vocabulary: Path, pure: bool) -> int:
    """Write the file; its size in bytes. `pure`: every matrix gets the preset's default type."""
    with ggq.open(vocabulary) as source:
        metadata = source.metadata.copy()
    for key in [key for key in metadata if key.startswith("llama.")]:
        kind, value = metadata.type(key), metadata.pop(key)
        metadata.set(key.replace("llama", shape.arch), value, kind)
    metadata.set("general.architecture", shape.arch, ValueType.STRING)
    for key, value in shape.keys().items():
        metadata.set(f"{shape.arch}.{key}", value, ValueType.U32)
    n_vocab = len(metadata["tokenizer.ggml.tokens"])
    tensors = _typed(shape, n_vocab, mixture, metadata, pure)
    metadata.set("general.file_type", mixture.file_type, ValueType.U32)
    metadata.set("general.name", f"random {mixture.name}", ValueType.STRING)
    rng = np.random.Generator(np.random.SFC64(0))
    with ggq.Writer(path, metadata, tensors) as out:
        for tensor in tensors:
            if len(tensor.shape) == 1:
                out.write(tensor.name, np.ones(tensor.shape, np.float32))
                continue
            left = tensor.n_weights
            while left:
                count = min(CHUNK, left)
                out.write(tensor.name, random_blocks(tensor.type, count, rng))
                left -= count
        return out.nbytes


def _typed(
    shape: Shape, n_vocab: int, mixture: Preset, metadata: Metadata, pure: bool
) -> list[TensorInfo]:
    """All tensors in llama-quantize's order, with the types it would give them."""
    f32 = blocks.by_name("F32")
    tensors = [TensorInfo(name, size, f32) for name, size in shape.tensors(n_vocab)]
    tensors.sort(key=lambda tensor: order_key(tensor.name))
    facts = ModelFacts.of(metadata)
    decisions = decide(facts, tensors, mixture, Options(pure=pure, has_imatrix=True))
    return [TensorInfo(d.tensor.name, d.tensor.shape, d.type) for d in decisions]


def random_blocks(
    family: BlockType, weights: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """u8: `weights` random weights, a whole number of blocks."""
    count = weights // family.weights
    if family.weights == 1:
        return _random_floats(family, count, rng)
    words = rng.bit_generator.random_raw(-(-count * family.nbytes // 8))
    raw = words.view(np.uint8)[: count * family.nbytes].reshape(count, family.nbytes)
    record = raw.view(family.layout)[:, 0]
    if family.name in SCALE_BYTES:
        field, low, high = SCALE_BYTES[family.name]
        record[field] = rng.integers(low, high, record[field].shape, np.uint8)
        return raw
    sizes = rng.uniform(1 - SPREAD, 1 + SPREAD, count).astype(np.float32)
    # Signs cancel what codes that are not centred leave.
    _set_scales(family, record, *_scales(family), sizes * rng.choice(SIGNS, count))
    return raw


def _random_floats(family: BlockType, n: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    x = rng.standard_normal(n, np.float32) * np.float32(DEVIATION)
    if family.name == "BF16":
        return (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return x.astype(family.layout["x"]).view(np.uint8)


@cache
def _scales(family: BlockType) -> tuple[float, float]:
    """(scale, minimum) fields that give weights of random codes the wished mean and deviation."""
    sample = np.random.default_rng(1).integers(0, 256, (512, family.nbytes), np.uint8)
    record = sample.view(family.layout)[:, 0]
    ones = np.ones(len(sample), np.float32)

    def decoded(scale: float, minimum: float) -> npt.NDArray[np.float32]:
        _set_scales(family, record, scale, minimum, ones)
        return family.dequantize(sample)

    level = decoded(0, 1).mean()
    minimum = -decoded(1, 0).mean() / level if level else 0.0
    weights = decoded(1, minimum)
    unit = DEVIATION / np.sqrt((weights * weights).mean())
    return float(unit), float(unit * minimum)


def _set_scales(
    family: BlockType,
    record: npt.NDArray[np.void],
    scale: float,
    minimum: float,
    sizes: npt.NDArray[np.float32],
) -> None:
    """Write scale and minimum, times a size for each block, into their fields."""
    if family.name == "IQ1_M":  # the nibbles of its scale top four words
        words = record["scales"].copy().view("<u2") & 0x0FFF
        half = (scale * sizes).astype("<f2").view("<u2")[:, None]
        words |= (half >> np.array([0, 4, 8, 12], "<u2") & 15) << 12
        record["scales"] = words.view(np.uint8)
        return
    for field, value in (("d", scale), ("m", minimum), ("dmin", minimum)):
        if field in (family.layout.names or ()):
            record[field] = value * sizes


def wanted(name: str, mixture: bool) -> tuple[Preset, bool]:
    """(preset, whether all matrices get its type). Raises UnknownPresetError."""
    try:
        family = target_type(name)
    except UnknownPresetError:
        mixture = True
    if mixture:
        return preset(name), False
    return Preset(family.name, guessed_file_type([family]) - GUESSED, family), True


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="Q4_K_M", help="tensor type or mixture")
    parser.add_argument("--mixture", action="store_true", help="a name that is both: the mixture")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--vocabulary", type=Path, help="file with the tokenizer; else SmolLM2")
    args = parser.parse_args()
    start = time.perf_counter()
    mixture, pure = wanted(args.type, args.mixture)
    vocabulary = args.vocabulary or oracles.smollm2()
    nbytes = write(args.out, SHAPES[args.shape], mixture, vocabulary, pure)
    seconds = time.perf_counter() - start
    print(f"{args.out}: {nbytes / 1e9:.2f} GB of {mixture.name} in {seconds:.1f} s")


if __name__ == "__main__":
    main()
