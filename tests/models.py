"""Seeded tiny models of every architecture.

Weights come from raw PCG64 words, whose stream numpy guarantees, so they are the same everywhere
and for ever, without torch. A tiny model is written as a Hugging Face directory and, by an own
mapping of names and layouts, as an F32 GGUF file: the converter is compared with the latter.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.gguf_file import Key, TensorSpec, float_tensor, write_gguf

F32Array = npt.NDArray[np.float32]
Config = dict[str, Any]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
# fmt: off
MERGES = [
    "h e", "i n", "r e", "o n", "a t", "e r", "o u", "e n", "i s", "o r", "Ġ t", "Ġ a", "Ġ s",
    "Ġ w", "Ġ c", "Ġ b", "Ġ f", "Ġ o", "Ġ d", "Ġ m", "Ġt he", "in g", "n d", "Ġa nd", "Ġo f",
    "l l", "e d", "Ġ p",
]
# fmt: on


def seeded(name: str, shape: tuple[int, ...], scale: float, seed: int = 1) -> F32Array:
    """Bell-shaped f32 values of standard deviation `scale`: sums of four 16-bit words."""
    count = int(np.prod(shape))
    words = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(count)
    quarters = words.astype("<u8").view("<u2").reshape(count, 4)
    centred = quarters.sum(axis=1, dtype=np.int64) - 2 * 65535
    unit = np.sqrt(3.0) / 65536
    return (centred * (unit * scale)).astype(np.float32).reshape(shape)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the bytes 0..255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def vocabulary() -> list[str]:
    """The 288 tokens of every tiny model: bytes, merges, specials."""
    return byte_alphabet() + [merge.replace(" ", "") for merge in MERGES] + SPECIAL


VOCAB_SIZE = 288
EOS = VOCAB_SIZE - 2  # <|im_end|>
BOS = VOCAB_SIZE - 4  # <|endoftext|>


@dataclass(frozen=True)
class TinyModel:
    """A seeded model given by its config.json."""

    name: str
    config: Config
    seed: int = 1

    @property
    def gguf_arch(self) -> str:
        """general.architecture of the converted file."""
        kind = self.config["model_type"]
        names = {"mistral": "llama", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}
        return names.get(kind, kind)

    def tensors(self) -> dict[str, F32Array]:
        """Hugging Face name -> array."""
        return {name: self._tensor(name, shape) for name, shape in hf_shapes(self.config)}

    def prompt(self, length: int = 64) -> list[int]:
        """Seeded token ids without specials."""
        words = np.random.PCG64([self.seed, 7]).random_raw(length)
        return [int(word % (VOCAB_SIZE - len(SPECIAL))) for word in words]

    def write_hf(self, folder: Path) -> Path:
        """config.json, model.safetensors and the tokenizer files."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2))
        save_file(self.tensors(), folder / "model.safetensors", {"format": "pt"})
        write_tokenizer(folder)
        return folder

    def write_gguf(self, path: Path) -> Path:
        """The same model as one F32 file."""
        specs = [*gguf_tensors(self.gguf_arch, self.config, self.tensors())]
        return write_gguf(path, gguf_keys(self.gguf_arch, self.config, self.name), specs)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> F32Array:
        if name.endswith("norm.weight"):
            centre = 0.0 if self.gguf_arch == "gemma3" else 1.0
            return seeded(name, shape, 0.2, self.seed) + np.float32(centre)
        scale = 0.5 if "embed" in name or len(shape) == 1 else 1.6 / shape[-1] ** 0.5
        return seeded(name, shape, scale, self.seed)


def tiny_config(architecture: str, model_type: str, **changes: Any) -> Config:
    """config.json of a tiny model; `changes` override."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": VOCAB_SIZE,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "float32",
    } | changes


LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

TINY = {
    model.name: model
    for model in (
        TinyModel("llama", tiny_config("LlamaForCausalLM", "llama", num_key_value_heads=1)),
        TinyModel(
            "llama3",
            tiny_config(
                "LlamaForCausalLM", "llama", rope_scaling=LLAMA3_SCALING, tie_word_embeddings=False
            ),
        ),
        TinyModel(
            "mistral",
            tiny_config(
                "MistralForCausalLM",
                "mistral",
                head_dim=32,
                sliding_window=None,
                tie_word_embeddings=False,
                rope_theta=1000000.0,
            ),
        ),
        TinyModel("qwen2", tiny_config("Qwen2ForCausalLM", "qwen2", rms_norm_eps=1e-6)),
        TinyModel(
            "qwen3",
            tiny_config(
                "Qwen3ForCausalLM",
                "qwen3",
                head_dim=32,
                attention_bias=False,
                tie_word_embeddings=False,
                rope_theta=1000000.0,
            ),
        ),
        TinyModel(
            "qwen3moe",
            tiny_config(
                "Qwen3MoeForCausalLM",
                "qwen3_moe",
                head_dim=32,
                num_hidden_layers=3,
                attention_bias=False,
                tie_word_embeddings=False,
                rope_theta=1000000.0,
                num_experts=12,
                num_experts_per_tok=3,
                moe_intermediate_size=40,
                norm_topk_prob=True,
                decoder_sparse_step=1,
                mlp_only_layers=[],
            ),
        ),
        TinyModel(
            "gemma3",
            tiny_config(
                "Gemma3ForCausalLM",
                "gemma3_text",
                head_dim=32,
                num_hidden_layers=7,
                num_key_value_heads=1,
                hidden_act="gelu_pytorch_tanh",
                hidden_activation="gelu_pytorch_tanh",
                query_pre_attn_scalar=32,
                rms_norm_eps=1e-6,
                rope_theta=1000000.0,
                rope_local_base_freq=10000.0,
                sliding_window=16,
                sliding_window_pattern=6,
                attention_bias=False,
                final_logit_softcapping=None,
                attn_logit_softcapping=None,
            ),
        ),
    )
}


def head_dim(config: Config) -> int:
    """Channels of one attention head."""
    derived = config["hidden_size"] // config["num_attention_heads"]
    return int(config.get("head_dim") or derived)


def hf_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of the checkpoint."""
    kind, C, F = config["model_type"], config["hidden_size"], config["intermediate_size"]
    D = head_dim(config)
    Q, KV = config["num_attention_heads"] * D, config["num_key_value_heads"] * D
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    yield "model.embed_tokens.weight", (config["vocab_size"], C)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for part, rows in (("q", Q), ("k", KV), ("v", KV)):
            yield f"{at}self_attn.{part}_proj.weight", (rows, C)
            if kind == "qwen2":
                yield f"{at}self_attn.{part}_proj.bias", (rows,)
        yield f"{at}self_attn.o_proj.weight", (C, Q)
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            yield f"{at}self_attn.q_norm.weight", (D,)
            yield f"{at}self_attn.k_norm.weight", (D,)
        if kind == "qwen3_moe":
            yield f"{at}mlp.gate.weight", (config["num_experts"], C)
            F = config["moe_intermediate_size"]
            parts = [f"{at}mlp.experts.{e}" for e in range(config["num_experts"])]
        else:
            parts = [f"{at}mlp"]
        for part in parts:
            yield f"{part}.gate_proj.weight", (F, C)
            yield f"{part}.up_proj.weight", (F, C)
            yield f"{part}.down_proj.weight", (C, F)
        for norm in norms:
            yield f"{at}{norm}.weight", (C,)
    yield "model.norm.weight", (C,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], C)


# --- the GGUF form; names and keys: llama.cpp gguf-py/gguf/constants.py -------------------------

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}  # fmt: skip
GEMMA_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
OUTER_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def gguf_name(arch: str, name: str) -> str:
    """GGUF name of a Hugging Face tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    names = GEMMA_NAMES if arch == "gemma3" else NAMES
    return f"blk.{layer}.{names[part]}.{kind}"


def gguf_tensors(arch: str, config: Config, tensors: dict[str, F32Array]) -> Iterator[TensorSpec]:
    """Every tensor in GGUF form, F32: llama's q and k rows pair up, gemma's norms carry their 1."""
    if factors := rope_factors(config):
        yield float_tensor("rope_freqs.weight", np.array(factors, np.float32))
    for name, x in stacked(tensors).items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            x = adjacent_pairs(x, head_dim(config))
        if arch == "gemma3" and name.endswith("norm.weight"):
            x = x + np.float32(1)
        yield float_tensor(gguf_name(arch, name), x)


def stacked(tensors: dict[str, F32Array]) -> dict[str, F32Array]:
    """The matrices of experts 0, 1, ... as one array, without the number in its name."""
    stacks: dict[str, list[F32Array]] = {}
    for name, x in tensors.items():
        stacks.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.", name), []).append(x)
    return {
        name: np.stack(parts) if ".experts." in name else parts[0] for name, parts in stacks.items()
    }


def adjacent_pairs(x: F32Array, head: int) -> F32Array:
    """Rows (i, i + head/2) of each head become rows (2i, 2i + 1)."""
    halves = x.reshape(-1, 2, head // 2, *x.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(x.shape)


def rope_factors(config: Config) -> list[float]:
    """Divisors of the rope frequencies of Llama 3 scaling; empty without it."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return []
    D, low, high = head_dim(config), scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for i in range(0, D, 2):
        turns = scaling["original_max_position_embeddings"] / (
            2 * np.pi * config["rope_theta"] ** (i / D)
        )
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return factors


def gguf_keys(arch: str, config: Config, name: str) -> list[Key]:
    """The metadata a loader needs, tokenizer included."""
    D = head_dim(config)
    keys = [
        Key("general.architecture", "str", arch),
        Key("general.name", "str", name),
        Key("general.file_type", "u32", 0),
        Key(f"{arch}.block_count", "u32", config["num_hidden_layers"]),
        Key(f"{arch}.context_length", "u32", config["max_position_embeddings"]),
        Key(f"{arch}.embedding_length", "u32", config["hidden_size"]),
        Key(f"{arch}.feed_forward_length", "u32", config["intermediate_size"]),
        Key(f"{arch}.attention.head_count", "u32", config["num_attention_heads"]),
        Key(f"{arch}.attention.head_count_kv", "u32", config["num_key_value_heads"]),
        Key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]),
        Key(f"{arch}.attention.key_length", "u32", D),
        Key(f"{arch}.attention.value_length", "u32", D),
        Key(f"{arch}.rope.freq_base", "f32", config["rope_theta"]),
        Key(f"{arch}.vocab_size", "u32", config["vocab_size"]),
    ]
    if arch == "llama":
        keys.append(Key("llama.rope.dimension_count", "u32", D))
    if arch == "qwen3moe":
        keys += [
            Key("qwen3moe.expert_count", "u32", config["num_experts"]),
            Key("qwen3moe.expert_used_count", "u32", config["num_experts_per_tok"]),
            Key("qwen3moe.expert_feed_forward_length", "u32", config["moe_intermediate_size"]),
        ]
    if arch == "gemma3":
        keys.append(Key("gemma3.attention.sliding_window", "u32", config["sliding_window"]))
    return keys + tokenizer_keys()


def tokenizer_keys() -> list[Key]:
    """The byte-level BPE of the tiny models."""
    types = [1] * (VOCAB_SIZE - len(SPECIAL)) + [3] * len(SPECIAL)
    return [
        Key("tokenizer.ggml.model", "str", "gpt2"),
        Key("tokenizer.ggml.pre", "str", "gpt-2"),
        Key("tokenizer.ggml.tokens", "[str", vocabulary()),
        Key("tokenizer.ggml.token_type", "[i32", types),
        Key("tokenizer.ggml.merges", "[str", MERGES),
        Key("tokenizer.ggml.bos_token_id", "u32", BOS),
        Key("tokenizer.ggml.eos_token_id", "u32", EOS),
        Key("tokenizer.ggml.add_bos_token", "bool", False),
        Key("tokenizer.chat_template", "str", CHAT_TEMPLATE),
    ]


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json of the same BPE."""
    added = [
        {"id": vocabulary().index(text), "content": text, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": True}
        for text in SPECIAL
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}  # fmt: skip
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
           "vocab": {text: i for i, text in enumerate(vocabulary())}, "merges": MERGES}  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
             "normalizer": None, "pre_tokenizer": byte_level, "post_processor": byte_level,
             "decoder": byte_level, "model": bpe}  # fmt: skip
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": SPECIAL[0],
                "eos_token": SPECIAL[2], "unk_token": SPECIAL[3], "add_bos_token": False,
                "chat_template": CHAT_TEMPLATE}  # fmt: skip
    generation = {"bos_token_id": BOS, "eos_token_id": EOS}
    write_json(folder / "tokenizer.json", whole)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "generation_config.json", generation)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
