"""Files whose structure is right and whose content lies: refused by name before a kernel runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError
from ggq.jit import Kernel
from ggq.runtime.threads import Team
from tests.gguf_file import Key, TensorSpec, float_tensor, write_gguf
from tests.models import TINY, VOCAB_SIZE, gguf_keys, gguf_tensors, vocabulary

NAN, INFINITY = float("nan"), float("inf")
BAD_FILE = 3  # exit code
LAYERS = {"llama": 2, "llama3": 1, "qwen2": 1, "qwen3": 1, "qwen3moe": 1, "gemma3": 7}
F32, F16, I8, I16, I32, I64 = 0, 1, 24, 25, 26, 27
ITEM_BYTES = {F16: 2, I8: 1, I16: 2, I32: 4, I64: 8}


class File:
    """The keys and tensors of a tiny model, by name."""

    def __init__(self, name: str) -> None:
        model = TINY[name]
        config = model.config | {"num_hidden_layers": LAYERS[name]}
        model = replace(model, config=config)
        self.keys = {key.name: key for key in gguf_keys(model.gguf_arch, config, name)}
        specs = gguf_tensors(model.gguf_arch, config, model.tensors())
        self.tensors = {spec.name: spec for spec in specs}

    def write(self, path: Path) -> Path:
        return write_gguf(path, self.keys.values(), list(self.tensors.values()))


Lie = Callable[[File], None]


def says(name: str, kind: str, value: Any) -> Lie:
    """A key with this value."""

    def change(file: File) -> None:
        file.keys[name] = Key(name, kind, value)

    return change


def lacks(name: str) -> Lie:
    """No such key or tensor."""

    def change(file: File) -> None:
        del (file.keys if name in file.keys else file.tensors)[name]

    return change


def shaped(name: str, *shape: int) -> Lie:
    """A tensor of another shape, or a tensor more."""

    def change(file: File) -> None:
        nbytes = 4 * int(np.prod(shape))
        file.tensors[name] = TensorSpec(name, shape, F32, bytes(nbytes), nbytes)

    return change


def typed(name: str, kind: int) -> Lie:
    """A tensor of another type, of its own shape, filled with zeros."""

    def change(file: File) -> None:
        shape = file.tensors[name].shape
        nbytes = int(np.prod(shape)) * ITEM_BYTES[kind]
        file.tensors[name] = TensorSpec(name, shape, kind, bytes(nbytes), nbytes)

    return change


def renamed(name: str, other: str) -> Lie:
    """A tensor under another name."""

    def change(file: File) -> None:
        file.tensors[other] = file.tensors.pop(name)._replace(name=other)

    return change


def holds(name: str, place: int, value: float) -> Lie:
    """A tensor with one other value."""

    def change(file: File) -> None:
        x = np.array(file.tensors[name].data, np.float32)
        x.flat[place] = value
        file.tensors[name] = float_tensor(name, x)

    return change


def all_of(*lies: Lie) -> Lie:
    """Several lies that agree with each other."""

    def change(file: File) -> None:
        for lie in lies:
            lie(file)

    return change


def narrow_heads(dims: int) -> Lie:
    """A model that is consistent, with heads too narrow for the kernels."""
    lengths = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    tensors = [
        shaped(f"blk.{layer}.{name}.weight", *shape)
        for layer in range(LAYERS["llama"])
        for name, shape in (
            ("attn_q", (4 * dims, 64)),
            ("attn_k", (dims, 64)),
            ("attn_v", (dims, 64)),
            ("attn_output", (64, 4 * dims)),
        )
    ]
    return all_of(*(says(f"llama.{key}", "u32", dims) for key in lengths), *tensors)


def tokens(count: int) -> list[str]:
    return [*vocabulary(), "one more"][:count]


EPS = "llama.attention.layer_norm_rms_epsilon"
HEADS, HEADS_KV = "llama.attention.head_count", "llama.attention.head_count_kv"
KEY_LENGTH, VALUE_LENGTH = "llama.attention.key_length", "llama.attention.value_length"
DIMS, BASE = "llama.rope.dimension_count", "llama.rope.freq_base"
TOKENS, TYPES, MERGES = (f"tokenizer.ggml.{key}" for key in ("tokens", "token_type", "merges"))
MODEL, SCORES = "tokenizer.ggml.model", "tokenizer.ggml.scores"
EXPERTS, USED = "qwen3moe.expert_count", "qwen3moe.expert_used_count"
EXPERT_WIDTH = "qwen3moe.expert_feed_forward_length"

# (model, lie, what the message must name)
LLAMA_LIES: list[tuple[Lie, str]] = [
    (lacks("general.architecture"), "general.architecture"),
    (says("general.architecture", "u32", 1), "general.architecture"),
    (says("general.architecture", "str", "bert"), "'bert'"),
    (says("general.architecture", "str", ""), "''"),
    (says("general.architecture", "str", "gemma3"), "gemma3."),
    (lacks("llama.block_count"), "llama.block_count"),
    (says("llama.block_count", "u32", 0), "llama.block_count"),
    (says("llama.block_count", "u32", 10**9), "llama.block_count"),
    (says("llama.block_count", "u64", 2**63), "llama.block_count"),
    (says("llama.block_count", "f32", 2.0), "llama.block_count"),
    (says("llama.block_count", "bool", True), "llama.block_count"),
    (says("llama.block_count", "u32", 3), "blk.2."),
    (says("llama.block_count", "u32", 1), "blk.1."),
    (lacks("llama.embedding_length"), "llama.embedding_length"),
    (says("llama.embedding_length", "u32", 0), "llama.embedding_length"),
    (says("llama.embedding_length", "u64", 2**40), "llama.embedding_length"),
    (says("llama.embedding_length", "i32", -64), "llama.embedding_length"),
    (says("llama.embedding_length", "[u32", [64, 64]), "llama.embedding_length"),
    (says("llama.embedding_length", "u32", 128), "token_embd.weight"),
    (lacks("llama.feed_forward_length"), "llama.feed_forward_length"),
    (says("llama.feed_forward_length", "u32", 0), "llama.feed_forward_length"),
    (says("llama.feed_forward_length", "str", "96"), "llama.feed_forward_length"),
    (says("llama.feed_forward_length", "u32", 95), "blk.0.ffn_"),
    (lacks(HEADS), HEADS),
    (says(HEADS, "u32", 0), HEADS),
    (says(HEADS, "i32", -4), HEADS),
    (says(HEADS, "u32", 8), "blk.0.attn_q.weight"),
    (says(HEADS, "u32", 2**24), HEADS),
    (says(HEADS, "[u32", [4, 4]), HEADS),
    (all_of(lacks(KEY_LENGTH), says(HEADS, "u32", 5)), HEADS),
    (says(HEADS_KV, "u32", 0), HEADS_KV),
    (says(HEADS_KV, "u32", 3), HEADS_KV),
    (says(HEADS_KV, "u32", 8), HEADS_KV),
    (says(HEADS_KV, "u32", 2), "blk.0.attn_k.weight"),
    (lacks(HEADS_KV), "blk.0.attn_k.weight"),
    (says(HEADS_KV, "str", "1"), HEADS_KV),
    (says(KEY_LENGTH, "u32", 0), KEY_LENGTH),
    (says(KEY_LENGTH, "u32", 15), KEY_LENGTH),
    (says(KEY_LENGTH, "u32", 2**20), KEY_LENGTH),
    (says(VALUE_LENGTH, "u32", 8), VALUE_LENGTH),
    (narrow_heads(12), KEY_LENGTH),
    (narrow_heads(4), KEY_LENGTH),
    (narrow_heads(2), KEY_LENGTH),
    (says(DIMS, "u32", 8), DIMS),
    (says(DIMS, "u32", 15), DIMS),
    (says(DIMS, "u32", 0), DIMS),
    (says(DIMS, "u64", 2**63), DIMS),
    (lacks(EPS), EPS),
    (says(EPS, "f32", NAN), EPS),
    (says(EPS, "f32", INFINITY), EPS),
    (says(EPS, "f32", 0.0), EPS),
    (says(EPS, "f32", -1e-5), EPS),
    (says(EPS, "f64", 1e-300), EPS),
    (says(EPS, "str", "1e-5"), EPS),
    (says(BASE, "f32", 0.0), BASE),
    (says(BASE, "f32", NAN), BASE),
    (says(BASE, "f64", 1e300), BASE),
    (says(BASE, "u32", 10000), BASE),
    (says("llama.rope.scaling.type", "str", "longrope"), "llama.rope.scaling.type"),
    (says("llama.rope.scaling.type", "u32", 1), "llama.rope.scaling.type"),
    (says("llama.rope.scaling.factor", "f32", 0.0), "llama.rope.scaling.factor"),
    (says("llama.rope.scaling.factor", "f32", NAN), "llama.rope.scaling.factor"),
    (says("llama.rope.scaling.attn_factor", "f32", INFINITY), "llama.rope.scaling.attn_factor"),
    (
        all_of(
            says("llama.rope.scaling.type", "str", "yarn"),
            says("llama.rope.scaling.original_context_length", "u32", 0),
        ),
        "llama.rope.scaling.original_context_length",
    ),
    (
        all_of(
            says("llama.rope.scaling.type", "str", "yarn"),
            says("llama.rope.scaling.yarn_beta_fast", "f32", NAN),
        ),
        "llama.rope.scaling.yarn_beta_fast",
    ),
    (
        all_of(says("llama.rope.scaling.type", "str", "yarn"), says(BASE, "f32", 1.0)),
        BASE,
    ),
    (lacks("llama.context_length"), "llama.context_length"),
    (says("llama.context_length", "u32", 0), "llama.context_length"),
    (says("llama.context_length", "u32", 2**31), "llama.context_length"),
    (says("llama.context_length", "u64", 2**63), "llama.context_length"),
    (says("llama.context_length", "[u32", [512]), "llama.context_length"),
    (says("llama.attention.causal", "bool", False), "llama.attention.causal"),
    (says("llama.expert_count", "u32", 8), "llama.expert_count"),
    (says("llama.expert_used_count", "u32", 2), "llama.expert_used_count"),
    (says("llama.attention.clamp_kqv", "f32", 8.0), "llama.attention.clamp_kqv"),
    (says("llama.vocab_size", "u32", VOCAB_SIZE - 1), "llama.vocab_size"),
    (says("llama.vocab_size", "u32", 0), "llama.vocab_size"),
    (all_of(lacks("llama.vocab_size"), says(TOKENS, "[str", tokens(287))), "token_embd.weight"),
    (all_of(lacks("llama.vocab_size"), says(TOKENS, "[str", tokens(289))), "token_embd.weight"),
    (lacks(TOKENS), TOKENS),
    (says(TOKENS, "[str", []), TOKENS),
    (says(TOKENS, "str", "x" * VOCAB_SIZE), TOKENS),
    (says(TOKENS, "[u32", list(range(VOCAB_SIZE))), TOKENS),
    (says(TOKENS, "[str", ["same"] * VOCAB_SIZE), TOKENS),
    (lacks(MODEL), MODEL),
    (says(MODEL, "u32", 1), MODEL),
    (says(MODEL, "str", "none of these"), "'none of these'"),
    (says("tokenizer.ggml.pre", "str", "none of these"), "tokenizer.ggml.pre"),
    (says("tokenizer.ggml.pre", "u32", 1), "tokenizer.ggml.pre"),
    (says(TYPES, "[i32", [1] * (VOCAB_SIZE - 1)), TYPES),
    (says(TYPES, "[str", ["1"] * VOCAB_SIZE), TYPES),
    (says(TYPES, "i32", 1), TYPES),
    (lacks(MERGES), MERGES),
    (says(MERGES, "[u32", [1, 2]), MERGES),
    (all_of(says(MODEL, "str", "llama"), says(SCORES, "[f32", [0.0])), SCORES),
    (all_of(says(MODEL, "str", "llama"), says(SCORES, "[str", ["0"] * VOCAB_SIZE)), SCORES),
    (says("tokenizer.ggml.bos_token_id", "str", "1"), "tokenizer.ggml.bos_token_id"),
    (says("tokenizer.ggml.eos_token_id", "f32", 2.0), "tokenizer.ggml.eos_token_id"),
    (says("tokenizer.ggml.add_bos_token", "u32", 1), "tokenizer.ggml.add_bos_token"),
    (lacks("token_embd.weight"), "token_embd.weight"),
    (lacks("output_norm.weight"), "output_norm.weight"),
    (lacks("blk.1.attn_v.weight"), "blk.1.attn_v.weight"),
    (lacks("blk.0.ffn_norm.weight"), "blk.0.ffn_norm.weight"),
    (renamed("blk.0.ffn_up.weight", "blk.0.ffn_up"), "blk.0.ffn_up"),
    (renamed("blk.1.ffn_up.weight", "blk.9.ffn_up.weight"), "blk.1.ffn_up.weight"),
    (shaped("blk.0.attn_qkv.weight", 96, 64), "blk.0.attn_qkv.weight"),
    (shaped("blk.0.ffn_up.weight", 64, 96), "blk.0.ffn_up.weight"),
    (shaped("blk.0.ffn_up.weight", 96 * 64), "blk.0.ffn_up.weight"),
    (shaped("blk.0.ffn_up.weight", 1, 96, 64), "blk.0.ffn_up.weight"),
    (shaped("blk.0.ffn_up.weight", 0, 64), "blk.0.ffn_up.weight"),
    (shaped("blk.0.ffn_up.weight", 96, 0), "blk.0.ffn_up.weight"),
    (shaped("token_embd.weight", VOCAB_SIZE + 1, 64), "token_embd.weight"),
    (shaped("output.weight", VOCAB_SIZE - 1, 64), "output.weight"),
    (shaped("output_norm.weight", 63), "output_norm.weight"),
    (shaped("output_norm.weight", 1, 64), "output_norm.weight"),
    (shaped("blk.0.attn_q.bias", 65), "blk.0.attn_q.bias"),
    (shaped("rope_freqs.weight", 16), "rope_freqs.weight"),
    (typed("output_norm.weight", F16), "output_norm.weight"),
    (all_of(shaped("blk.0.attn_q.bias", 64), typed("blk.0.attn_q.bias", F16)), "blk.0.attn_q.bias"),
    (typed("blk.0.ffn_up.weight", I8), "blk.0.ffn_up.weight"),
    (typed("blk.0.ffn_up.weight", I16), "blk.0.ffn_up.weight"),
    (typed("token_embd.weight", I32), "token_embd.weight"),
    (typed("token_embd.weight", I64), "token_embd.weight"),
]
OTHER_LIES: list[tuple[str, Lie, str]] = [
    ("llama3", holds("rope_freqs.weight", 0, 0.0), "rope_freqs.weight"),
    ("llama3", holds("rope_freqs.weight", 3, NAN), "rope_freqs.weight"),
    ("llama3", holds("rope_freqs.weight", 7, -1.0), "rope_freqs.weight"),
    ("llama3", holds("rope_freqs.weight", 7, INFINITY), "rope_freqs.weight"),
    ("llama3", typed("rope_freqs.weight", F16), "rope_freqs.weight"),
    ("qwen2", lacks("blk.0.attn_k.bias"), "blk.0.attn_k.bias"),
    ("qwen2", says("qwen2.attention.key_length", "u32", 32), "qwen2.attention.value_length"),
    ("qwen3", lacks("blk.0.attn_q_norm.weight"), "blk.0.attn_q_norm.weight"),
    ("qwen3", shaped("blk.0.attn_q_norm.weight", 16), "blk.0.attn_q_norm.weight"),
    ("qwen3moe", lacks(EXPERTS), EXPERTS),
    ("qwen3moe", says(EXPERTS, "u32", 0), EXPERTS),
    ("qwen3moe", says(EXPERTS, "u32", 11), "blk.0.ffn_gate_inp.weight"),
    ("qwen3moe", says(EXPERTS, "u32", 13), "blk.0.ffn_gate_inp.weight"),
    ("qwen3moe", says(EXPERTS, "u32", 1025), EXPERTS),
    ("qwen3moe", says(EXPERTS, "[u32", [12]), EXPERTS),
    ("qwen3moe", lacks(USED), USED),
    ("qwen3moe", says(USED, "u32", 0), USED),
    ("qwen3moe", says(USED, "u32", 13), USED),
    ("qwen3moe", says(USED, "i32", -3), USED),
    ("qwen3moe", says(USED, "[u32", [3]), USED),
    ("qwen3moe", lacks(EXPERT_WIDTH), "blk.0.ffn_gate_exps.weight"),
    ("qwen3moe", says(EXPERT_WIDTH, "u32", 0), EXPERT_WIDTH),
    ("qwen3moe", says(EXPERT_WIDTH, "u32", 39), "blk.0.ffn_gate_exps.weight"),
    ("qwen3moe", says("qwen3moe.expert_shared_count", "u32", 1), "expert_shared_count"),
    ("qwen3moe", says("qwen3moe.expert_gating_func", "u32", 2), "expert_gating_func"),
    ("qwen3moe", says("qwen3moe.expert_group_count", "u32", 4), "expert_group_count"),
    ("qwen3moe", lacks("blk.0.ffn_gate_inp.weight"), "blk.0.ffn_gate_inp.weight"),
    ("qwen3moe", lacks("blk.0.ffn_up_exps.weight"), "blk.0.ffn_up_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_gate_inp.weight", 64, 12), "blk.0.ffn_gate_inp.weight"),
    ("qwen3moe", shaped("blk.0.ffn_up_exps.weight", 11, 40, 64), "blk.0.ffn_up_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_up_exps.weight", 12, 64, 40), "blk.0.ffn_up_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_up_exps.weight", 480, 64), "blk.0.ffn_up_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_up_exps.weight", 1, 12, 40, 64), "blk.0.ffn_up_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_down_exps.weight", 12, 40, 64), "blk.0.ffn_down_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_down_exps.weight", 12, 64, 0), "blk.0.ffn_down_exps.weight"),
    ("qwen3moe", shaped("blk.0.ffn_up.weight", 96, 64), "blk.0.ffn_up.weight"),
    ("qwen3moe", typed("blk.0.ffn_down_exps.weight", I8), "blk.0.ffn_down_exps.weight"),
    ("gemma3", says("gemma3.attention.sliding_window", "str", "16"), "attention.sliding_window"),
    ("gemma3", says("gemma3.attention.sliding_window", "i32", -1), "attention.sliding_window"),
    (
        "gemma3",
        says("gemma3.attention.sliding_window_pattern", "[bool", [True]),
        "attention.sliding_window_pattern",
    ),
    (
        "gemma3",
        says("gemma3.attention.sliding_window_pattern", "[f32", [NAN] * 7),
        "attention.sliding_window_pattern",
    ),
    (
        "gemma3",
        says("gemma3.attention.sliding_window_pattern", "u32", 0),
        "attention.sliding_window_pattern",
    ),
    ("gemma3", says("gemma3.rope.freq_base_swa", "f32", 0.0), "gemma3.rope.freq_base_swa"),
    ("gemma3", says("gemma3.final_logit_softcapping", "f32", NAN), "final_logit_softcapping"),
    ("gemma3", says("gemma3.final_logit_softcapping", "f32", -1.0), "final_logit_softcapping"),
    ("gemma3", says("gemma3.attn_logit_softcapping", "f32", 50.0), "attn_logit_softcapping"),
    ("gemma3", lacks("blk.6.post_ffw_norm.weight"), "blk.6.post_ffw_norm.weight"),
]
LIES = [("llama", *lie) for lie in LLAMA_LIES] + OTHER_LIES


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def entered(*_: Any) -> None:
        raise AssertionError("a kernel was entered")

    monkeypatch.setattr(Kernel, "__call__", entered)
    monkeypatch.setattr(Team, "run", entered)


def use(path: Path) -> None:
    with ggq.load(path, n_threads=1) as model:
        model.logits(model.tokenize("he"))


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(("name", "lie", "named"), LIES)
def test_lie_is_refused(name: str, lie: Lie, named: str, tmp_path: Path) -> None:
    file = File(name)
    lie(file)
    path = file.write(tmp_path / "lying.gguf")
    with pytest.raises(GGQError) as refusal:
        use(path)
    assert refusal.value.exit_code == BAD_FILE
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", LAYERS)
def test_without_a_lie_it_runs(name: str, tmp_path: Path) -> None:
    use(File(name).write(tmp_path / "honest.gguf"))


@pytest.mark.usefixtures("no_kernel")
def test_the_kernels_are_watched(tmp_path: Path) -> None:
    path = File("llama").write(tmp_path / "honest.gguf")
    with pytest.raises(AssertionError, match="a kernel was entered"):
        use(path)
