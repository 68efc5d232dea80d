"""Seeded inputs of the identity tests: GGUF sources, importance matrices, and single blocks.

Sources have rows of 256 and many layers, so that every rule of the mixtures has a layer to act on;
"narrow" has rows of 288, 144 and 400 weights, so that every shape fallback has one, and "experts"
stacks of matrices.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.gguf_file import BF16, F32, Key, float_tensor, write_gguf
from tests.models import F32Array, TinyModel, gguf_keys, gguf_tensors, seeded, tiny_config

IMATRIX = "seeded.imatrix.gguf"
IMATRIX_DAT = "seeded.imatrix.dat"
DATASET = "seeded.txt"
CHUNKS = 12
CHUNK_TOKENS = 64


@dataclass(frozen=True)
class Source:
    """One GGUF file to quantize; its name is its file name too."""

    name: str
    layers: int
    width: int
    ff: int
    kv_heads: int
    tied: bool
    type: int = F32
    experts: int = 0

    @property
    def model(self) -> TinyModel:
        """The seeded Llama, or Qwen3 with experts, behind the file."""
        kind, changes = ("LlamaForCausalLM", "llama"), {}
        if self.experts:
            kind = ("Qwen3MoeForCausalLM", "qwen3_moe")
            changes = {"num_experts": self.experts, "moe_intermediate_size": self.ff}
            changes |= {"num_experts_per_tok": 2}
        config = tiny_config(
            *kind,
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            intermediate_size=self.ff,
            num_key_value_heads=self.kv_heads,
            tie_word_embeddings=self.tied,
            **changes,
        )
        return TinyModel(self.name, config, seed=2)

    def tensors(self) -> dict[str, F32Array]:
        """GGUF name -> f32 array before rounding to the file's type."""
        model = self.model
        specs = gguf_tensors(model.gguf_arch, model.config, model.tensors())
        return {spec.name: heavy_tailed(spec.data) for spec in specs}

    def write(self, folder: Path) -> Path:
        """FOLDER/NAME.gguf with norms in F32 and matrices in the source's type."""
        keys = [
            key._replace(value={F32: 0, BF16: 32}[self.type])
            if key.name == "general.file_type"
            else key
            for key in gguf_keys(self.model.gguf_arch, self.model.config, self.name)
        ]
        specs = [
            float_tensor(name, x, self.type if x.ndim > 1 else F32)
            for name, x in self.tensors().items()
        ]
        return write_gguf(folder / f"{self.name}.gguf", keys, specs)


SOURCES = {
    source.name: source
    for source in (
        Source("wide", layers=16, width=256, ff=256, kv_heads=1, tied=False),
        Source("tied", layers=8, width=256, ff=512, kv_heads=2, tied=True, type=BF16),
        Source("narrow", layers=8, width=288, ff=400, kv_heads=2, tied=False),
        Source("experts", layers=8, width=256, ff=256, kv_heads=1, tied=False, experts=3),
    )
}


def heavy_tailed(x: F32Array) -> F32Array:
    """The same values with the large ones made larger, as trained weights have them."""
    scale = np.float32(0.05)
    y = x / np.abs(x).max()
    return ((y + np.float32(6) * y * y * y) * scale).astype(np.float32)


def importance(source: Source) -> dict[str, F32Array]:
    """GGUF name -> [matrices, columns] sums of squares, for the matrices inside the blocks."""
    sums = {}
    for name, x in source.tensors().items():
        if name.startswith("blk.") and x.ndim > 1:
            shape = (x.shape[0] if x.ndim > 2 else 1, x.shape[-1])
            activations = seeded(f"{name}.imatrix", shape, 3.0, seed=3)
            sums[name] = activations * activations + np.float32(0.01)
    return sums


def write_imatrix_gguf(source: Source, folder: Path) -> Path:
    """FOLDER/seeded.imatrix.gguf in the GGUF form of llama-imatrix.

    One tensor is left out, one was never called, and one expert neither, as in real files.
    """
    keys = [
        Key("general.type", "str", "imatrix"),
        Key("imatrix.datasets", "[str", [DATASET]),
        Key("imatrix.chunk_count", "u32", CHUNKS),
        Key("imatrix.chunk_size", "u32", CHUNK_TOKENS),
    ]
    specs = []
    for name, sums in importance(source).items():
        if name == "blk.1.ffn_up.weight":
            continue
        calls = np.full((len(sums), 1), CHUNKS * CHUNK_TOKENS, np.float32)
        if name == "blk.2.ffn_gate.weight":
            calls[0] = 0
        if len(sums) > 1:
            calls -= 100 * np.arange(len(sums), dtype=np.float32)[:, None]
            calls[1] *= name != "blk.2.ffn_gate_exps.weight"
        specs.append(float_tensor(f"{name}.in_sum2", sums))
        specs.append(float_tensor(f"{name}.counts", calls))
    return write_gguf(folder / IMATRIX, keys, specs)


def write_imatrix_dat(source: Source, folder: Path) -> Path:
    """FOLDER/seeded.imatrix.dat in the legacy form, with every tensor."""
    entries = importance(source)
    parts = [struct.pack("<i", len(entries))]
    for name, sums in entries.items():
        head = struct.pack("<i", len(name)) + name.encode()
        parts += [head, struct.pack("<ii", CHUNKS, sums.size), sums.astype("<f4").tobytes()]
    parts.append(struct.pack("<ii", CHUNKS, len(DATASET)) + DATASET.encode())
    path = folder / IMATRIX_DAT
    path.write_bytes(b"".join(parts))
    return path


def block_inputs(rows: int = 4, cols: int = 2048) -> dict[str, F32Array]:
    """Kind -> f32[rows, cols]: what every quantizer must turn into the oracle's bytes."""
    shape = (rows, cols)
    random = seeded("block", shape, 1.0, seed=4)
    outliers = random.copy()
    outliers[:, ::97] *= np.float32(1000)
    magnitudes = seeded("magnitudes", shape, 8.0, seed=4).astype(np.int32)
    bf16 = (random.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return {
        "random": random,
        "bf16": bf16,
        "zero": np.zeros(shape, np.float32),
        "constant": np.full(shape, -0.37, np.float32),
        "subnormal": random * np.float32(1e-40),
        "outliers": outliers,
        "tiny": random * np.float32(1e-7),
        "large": random * np.float32(3e3),
        "sparse": np.where(random > 1.5, random, 0).astype(np.float32),
        "nearly subnormal": random * np.float32(3e-38),
        "near the smallest group": random * np.float32(3e-15),
        "offset": random * np.float32(1e-3) - np.float32(20),
        "few levels": np.round(random * np.float32(2)) / np.float32(4),
        "one sign": np.abs(random),
        "spread": np.ldexp(random, magnitudes).clip(-3e4, 3e4),
    }


def block_importances(cols: int = 2048) -> dict[str, F32Array]:
    """Kind -> f32[cols]: importance for these weights."""
    uneven = np.abs(seeded("importance", (cols,), 1.0, seed=4)) ** 3
    return {
        "even": np.ones(cols, np.float32),
        "uneven": uneven,
        "holes": np.where(uneven > 0.1, uneven, 0).astype(np.float32),
        "wild": np.ldexp(uneven, seeded("wild", (cols,), 15.0, seed=4).astype(np.int32)),
        "zero": np.zeros(cols, np.float32),
    }
