"""The models of llama.cpp's type snapshots as tables: names and shapes, no weights.

Dimensions are those of the published config.json files; llama.cpp's tests/snapshots/*.schema hold
the type every preset gives their tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gguf_file import Key, absent_tensor, write_gguf

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]


@dataclass(frozen=True)
class SnapshotModel:
    """`layer` yields the tensors of one layer without the "blk.N." in front."""

    schema: str
    arch: str
    embd: int
    vocab: int
    layers: int
    heads: int
    kv: Any
    layer: Callable[[SnapshotModel, int], Tensors]
    experts: int = 0
    tied: bool = False
    head_dim: int = 128

    def tensors(self) -> Tensors:
        """(name, shape rows first) in the order of a checkpoint."""
        yield "token_embd.weight", (self.vocab, self.embd)
        for n in range(self.layers):
            for name, shape in self.layer(self, n):
                yield f"blk.{n}.{name}.weight", shape
        yield "output_norm.weight", (self.embd,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.embd)

    def write(self, path: Path) -> Path:
        """A header-only F32 GGUF file."""
        kv_kind = "[i32" if isinstance(self.kv, list) else "u32"
        keys = [
            Key("general.architecture", "str", self.arch),
            Key(f"{self.arch}.block_count", "u32", self.layers),
            Key(f"{self.arch}.attention.head_count", "u32", self.heads),
            Key(f"{self.arch}.attention.head_count_kv", kv_kind, self.kv),
            Key(f"{self.arch}.expert_count", "u32", self.experts),
        ]
        return write_gguf(path, keys, [absent_tensor(*tensor) for tensor in self.tensors()])


def norms(m: SnapshotModel, *names: str) -> Tensors:
    for name in names:
        yield name, (m.embd,)


def attention(m: SnapshotModel, heads: int = 0, kv: int = 0, gated: bool = False) -> Tensors:
    heads, kv = heads or m.heads, kv or m.kv
    yield from norms(m, "attn_norm")
    yield "attn_q", (heads * m.head_dim * (2 if gated else 1), m.embd)
    yield "attn_k", (kv * m.head_dim, m.embd)
    yield "attn_v", (kv * m.head_dim, m.embd)
    yield "attn_output", (m.embd, heads * m.head_dim)


def ffn(m: SnapshotModel, width: int, suffix: str = "", gate: bool = True) -> Tensors:
    if gate:
        yield f"ffn_gate{suffix}", (width, m.embd)
    yield f"ffn_up{suffix}", (width, m.embd)
    yield f"ffn_down{suffix}", (m.embd, width)


def moe(m: SnapshotModel, width: int, shared: int = 0, gate: bool = True) -> Tensors:
    yield "ffn_gate_inp", (m.experts, m.embd)
    if gate:
        yield "ffn_gate_exps", (m.experts, width, m.embd)
    yield "ffn_up_exps", (m.experts, width, m.embd)
    yield "ffn_down_exps", (m.experts, m.embd, width)
    if shared:
        yield from ffn(m, shared, "_shexp", gate)


def dense(width: int) -> Callable[[SnapshotModel, int], Tensors]:
    def layer(m: SnapshotModel, _: int) -> Tensors:
        yield from attention(m)
        yield "attn_q_norm", (m.head_dim,)
        yield "attn_k_norm", (m.head_dim,)
        yield from norms(m, "ffn_norm")
        yield from ffn(m, width)

    return layer


def sparse_after(
    dense_layers: int, dense_width: int, width: int, shared: int, *, gate_heads: bool = False
) -> Callable[[SnapshotModel, int], Tensors]:
    def layer(m: SnapshotModel, n: int) -> Tensors:
        yield from attention(m)
        if gate_heads:
            yield "attn_gate", (m.heads, m.embd)
        yield from ffn(m, dense_width) if n < dense_layers else moe(m, width, shared)

    return layer


def delta_net(
    key: int, value: int, *, fused: bool, width: int = 0, expert: int = 0
) -> Callable[[SnapshotModel, int], Tensors]:
    """Three linear layers, then one of gated full attention; dense or with experts."""

    def layer(m: SnapshotModel, n: int) -> Tensors:
        if n % 4 == 3:
            yield from attention(m, gated=True)
        else:
            yield "attn_qkv", (2 * key + value, m.embd)
            yield "attn_gate", (value, m.embd)
            for name, heads in (("ba", 2),) if fused else (("alpha", 1), ("beta", 1)):
                yield f"ssm_{name}", (heads * value // 128, m.embd)
            yield "ssm_conv1d", (2 * key + value, 4)
            yield "ssm_out", (m.embd, value)
        yield from moe(m, expert, expert) if m.experts else ffn(m, width)

    return layer


def mla(m: SnapshotModel, n: int) -> Tensors:
    yield "attn_q_a", (1536, m.embd)
    yield "attn_q_b", (m.heads * 192, 1536)
    yield "attn_kv_a_mqa", (576, m.embd)
    yield "attn_k_b", (m.heads, 512, 128)
    yield "attn_v_b", (m.heads, 128, 512)
    yield "attn_output", (m.embd, m.heads * 128)
    yield from ffn(m, 18432) if n < 3 else moe(m, 2048, 2048)


NEMOTRON = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


def nemotron(m: SnapshotModel, n: int) -> Tensors:
    if NEMOTRON[n] == "M":
        yield "ssm_in", (10304, m.embd)
        yield "ssm_conv1d", (6144, 4)
        yield "ssm_out", (m.embd, 4096)
    elif NEMOTRON[n] == "*":
        yield from attention(m, kv=2)
    else:
        yield from moe(m, 1856, 3712, gate=False)


MODELS = {
    m.schema: m
    for m in (
        SnapshotModel("qwen3-0.6b", "qwen3", 1024, 151936, 28, 16, 8, dense(3072)),
        SnapshotModel("qwen3-14b", "qwen3", 5120, 151936, 40, 40, 8, dense(17408)),
        SnapshotModel(
            "meta-llama-3.1-70b-instruct", "llama", 8192, 128256, 80, 64, 8, dense(28672)
        ),
        SnapshotModel(
            "gemma-3-4b-it", "gemma3", 2560, 262144, 34, 8, 4, dense(10240), tied=True, head_dim=256
        ),
        SnapshotModel(
            "glm-4.6v", "glm4moe", 4096, 151552, 46, 96, 8, sparse_after(1, 10944, 1408, 1408), 128
        ),
        SnapshotModel(
            "step-3.5-flash",
            "step35",
            4096,
            128896,
            45,
            64,
            8,
            sparse_after(3, 11264, 1280, 1280, gate_heads=True),
            288,
        ),
        SnapshotModel(
            "gpt-oss-120b",
            "gpt-oss",
            2880,
            201088,
            36,
            64,
            8,
            sparse_after(0, 0, 2880, 0),
            128,
            head_dim=64,
        ),
        SnapshotModel("deepseek-v3.1", "deepseek2", 7168, 129280, 61, 128, 1, mla, 256),
        SnapshotModel(
            "nvidia-nemotron-3-nano-30b-a3b",
            "nemotron_h_moe",
            2688,
            131072,
            52,
            32,
            [2 if kind == "*" else 0 for kind in NEMOTRON],
            nemotron,
            128,
        ),
        SnapshotModel(
            "qwen3-coder-next",
            "qwen3next",
            2048,
            151936,
            48,
            16,
            2,
            delta_net(2048, 4096, fused=True, expert=512),
            512,
            head_dim=256,
        ),
        SnapshotModel(
            "qwen3.5-397b-a17b",
            "qwen35moe",
            4096,
            248320,
            60,
            32,
            2,
            delta_net(2048, 8192, fused=False, expert=1024),
            512,
            head_dim=256,
        ),
        SnapshotModel(
            "qwen3.6-27b",
            "qwen35",
            5120,
            248320,
            64,
            24,
            4,
            delta_net(2048, 6144, fused=False, width=17408),
            head_dim=256,
        ),
    )
}
