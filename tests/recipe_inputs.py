"""Small models of every shape the mixture rules look at, as files without weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.gguf_file import BF16, F32, Key, absent_tensor, float_tensor, write_gguf
from tests.models import tokenizer_keys

IMATRIX = "ones.imatrix.gguf"

# Names that a rule about names takes, or just misses.
ODD_NAMES = (
    ("weigh", (256, 256)),
    ("Z.weight", (256, 256)),
    ("aé.weight", (256, 256)),
    ("altup_x.weight", (64, 256)),
    ("blk.0.3d.weight", (3, 32, 256)),
    ("blk.0.one.weight", (1, 512)),
    ("blk.1.attn_kv_b.weight", (256, 256)),
    ("blk.2.foo.weight", (256, 256)),
    ("blk.3.attn_v.weight2", (256, 256)),
    ("per_layer_token_embd.weight", (256, 512)),
    ("position_embd.weight", (64, 256)),
    ("v.patch_embd.weight", (256, 256)),
)


@dataclass(frozen=True)
class RecipeModel:
    """One model: enough keys for llama-quantize to load it, and tensors without data."""

    name: str
    layers: int
    width: int = 256
    ff: int = 256
    heads: int = 4
    kv: int = 1
    experts: int = 0
    arch: str = "llama"
    tied: bool = False
    fused: bool = False
    type: int = F32
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape rows first)."""
        C, F = self.width, self.ff
        D = C // self.heads
        Q, KV = self.heads * D, self.kv * D
        yield "token_embd.weight", (512, C)
        yield "output_norm.weight", (C,)
        if not self.tied:
            yield "output.weight", (512, C)
        fused = {"attn_qkv": (Q + 2 * KV, C)}
        split = {"attn_q": (Q, C), "attn_k": (KV, C), "attn_v": (KV, C)}
        dense = {"ffn_gate": (F, C), "ffn_up": (F, C), "ffn_down": (C, F)}
        stacked = {f"{name}_exps": (self.experts, *shape) for name, shape in dense.items()}
        router = {"ffn_gate_inp": (self.experts, C)}
        layer: dict[str, tuple[int, ...]] = {"attn_norm": (C,), "ffn_norm": (C,)}
        layer |= {"attn_output": (C, Q), **(fused if self.fused else split)}
        layer |= stacked | router if self.experts else dense
        for n in range(self.layers):
            for part, shape in layer.items():
                yield f"blk.{n}.{part}.weight", shape
        yield from self.extra

    def write(self, folder: Path) -> Path:
        """FOLDER/NAME.gguf, sparse: the data are holes, so llama-quantize can map them."""
        specs = [
            absent_tensor(name, shape, self.type if len(shape) > 1 else F32)
            for name, shape in self.tensors()
        ]
        path = write_gguf(folder / f"{self.name}.gguf", [*self._keys(), *tokenizer_keys()], specs)
        with path.open("ab") as file:
            file.truncate(file.tell() + sum(-(-spec.nbytes // 32) * 32 for spec in specs))
        return path

    def write_imatrix(self, folder: Path) -> Path:
        """FOLDER/ones.imatrix.gguf with an entry for every matrix."""
        keys = [
            Key("general.type", "str", "imatrix"),
            Key("imatrix.datasets", "[str", ["ones.txt"]),
            Key("imatrix.chunk_count", "u32", 1),
            Key("imatrix.chunk_size", "u32", 64),
        ]
        specs = []
        for name, shape in self.tensors():
            matrices = shape[0] if len(shape) > 2 else 1
            specs.append(float_tensor(f"{name}.in_sum2", np.ones((matrices, shape[-1]), "f4")))
            specs.append(float_tensor(f"{name}.counts", np.ones((matrices, 1), "f4")))
        return write_gguf(folder / IMATRIX, keys, specs)

    def _keys(self) -> Iterator[Key]:
        yield Key("general.architecture", "str", self.arch)
        numbers = {
            "block_count": self.layers,
            "context_length": 128,
            "embedding_length": self.width,
            "feed_forward_length": self.ff,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv,
        }
        if self.experts:
            numbers |= {"expert_count": self.experts, "expert_used_count": 2}
            numbers["expert_feed_forward_length"] = self.ff
        for key, value in numbers.items():
            yield Key(f"{self.arch}.{key}", "u32", value)
        for kind in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
            yield Key(f"{self.arch}.attention.{kind}", "f32", 1e-5)


RECIPE_MODELS = {
    model.name: model
    for model in (
        RecipeModel("gqa4", 16, ff=512),
        RecipeModel("tied", 17, ff=512, kv=2, tied=True),
        RecipeModel("llama70", 80, kv=2),
        RecipeModel("llama65", 80, kv=4),
        RecipeModel("qwen80", 80, kv=4, arch="qwen2"),
        RecipeModel("experts8", 10, experts=8),
        RecipeModel("experts4", 16, kv=2, experts=4),
        RecipeModel("experts16", 17, kv=2, experts=16, arch="qwen3moe"),
        RecipeModel("a3b", 48, heads=8, experts=128, arch="qwen3moe"),
        RecipeModel("falcon", 33, kv=4, arch="falcon", fused=True, tied=True),
        RecipeModel("falcon_gqa4", 33, arch="falcon", fused=True),
        RecipeModel("columns576", 16, width=576, ff=1536, heads=9, kv=3, tied=True),
        RecipeModel("columns640", 16, width=640, ff=2048, heads=5),
        RecipeModel("columns48", 16, width=48, ff=96),
        RecipeModel("columns64", 16, width=64, ff=128),
        RecipeModel("bf16", 16, ff=512, type=BF16),
        RecipeModel("names", 4, ff=512, extra=ODD_NAMES),
    )
}
# name -> the arguments of llama-quantize, which are ggq-convert's too
PLAIN = {"": [], "imatrix": ["--imatrix", IMATRIX]}
OPTIONS = {
    "pure": ["--pure"],
    "leave": ["--leave-output-tensor"],
    "output": ["--output-tensor-type", "q4_0"],
    "embedding": ["--token-embedding-type", "q5_0"],
    "both": ["--output-tensor-type", "q4_1", "--token-embedding-type", "F16"],
    "override": ["--tensor-type", "attn_v=q8_0"],
    "overrides": [
        *("--tensor-type", r"BLK\.[0-3]\.ffn_down=q5_k"),
        *("--tensor-type", "ffn_(up|gate)=iq4_nl"),
        *("--tensor-type", "per_layer=q4_1"),
    ],
    "named": [
        *("--tensor-type", r"[[:digit:]]\.attn_k=q6_k"),
        *("--tensor-type", "per_layer=q4_1"),
        *("--token-embedding-type", "q8_0"),
    ],
}
WITH_OPTIONS = ("gqa4", "tied", "experts8", "columns64", "names")


def cases() -> Iterator[tuple[str, str, list[str]]]:
    """(model, name of the options, arguments) of every comparison."""
    for model in RECIPE_MODELS:
        for name, arguments in PLAIN.items():
            yield model, name, arguments
        if model in WITH_OPTIONS:
            for name, arguments in OPTIONS.items():
                yield model, name, arguments
