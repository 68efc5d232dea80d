"""What decoders of the Llama line share: metadata keys, config.json keys and the tensor table.

Order and types of keys: llama.cpp conversion/base.py `set_gguf_parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ggq.runtime.arch._base import Entry, HParams, TensorRule, Transform
from ggq.runtime.arch._config import Config, positive, wrong
from ggq.spec import ValueType

Layer = tuple[str, str, tuple[int, ...], Transform | None, bool]
U32, F32, STRING = ValueType.U32, ValueType.F32, ValueType.STRING

YARN_KEYS = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def decoder_metadata(
    arch: str,
    config: Config,
    rope: dict[str, Any],
    head_dim: int | None,
    rope_base_swa: float | None = None,
    experts: Sequence[Entry] = (),
) -> list[Entry]:
    """The keys every decoder has, in llama.cpp's order, and the counts of `experts` among them.

    `head_dim` None leaves out its keys.
    """
    n_head = config.integer("num_attention_heads")
    entries: list[Entry] = [
        ("block_count", U32, config.integer("num_hidden_layers")),
        ("context_length", U32, config.integer("max_position_embeddings")),
        ("embedding_length", U32, config.integer("hidden_size")),
        ("feed_forward_length", U32, config.integer("intermediate_size")),
        ("attention.head_count", U32, n_head),
        ("attention.head_count_kv", U32, config.integer("num_key_value_heads", n_head)),
        *_scaling_entries(config, rope),
        ("rope.freq_base", F32, rope["rope_theta"]),
    ]
    if rope_base_swa is not None:
        entries.append(("rope.freq_base_swa", F32, rope_base_swa))
    entries.append(("attention.layer_norm_rms_epsilon", F32, config.number("rms_norm_eps")))
    entries += experts
    if head_dim is not None:
        entries.append(("attention.key_length", U32, head_dim))
        entries.append(("attention.value_length", U32, head_dim))
    return [(f"{arch}.{key}", kind, value) for key, kind, value in entries]


def _scaling_entries(config: Config, rope: dict[str, Any]) -> list[Entry]:
    kind = rope["rope_type"]
    if kind in ("default", "llama3"):
        return []
    if kind not in ("linear", "yarn"):
        raise wrong("rope_type", kind, "default, linear, llama3 or yarn")
    entries: list[Entry] = [
        ("rope.scaling.type", STRING, kind),
        ("rope.scaling.factor", F32, positive("rope factor", rope.get("factor"))),
    ]
    if kind == "yarn":
        for key in ("mscale", "mscale_all_dim"):
            if key in rope:
                raise wrong(key, rope[key], "no such key: it is not implemented")
        original = rope.get("original_max_position_embeddings")
        context = Config({"original_max_position_embeddings": original}, {}).integer(
            "original_max_position_embeddings", config.integer("max_position_embeddings")
        )
        entries.append(("rope.scaling.original_context_length", U32, context))
        for name, key in YARN_KEYS.items():
            if name in rope:
                entries.append((f"rope.scaling.{key}", F32, positive(name, rope[name])))
    return entries


def refuse_unknown(config: Config, activation: str, *, experts: bool = False) -> None:
    """Raise UnsupportedModelError for the switches no decoder here implements.

    Numbers of experts are among them unless the architecture has `experts`.
    """
    config.only("hidden_act", activation)
    config.only("hidden_activation", activation)
    config.only("is_causal", True)
    config.only("quantization_config")
    config.only("partial_rotary_factor", 1, 1.0)
    config.only("n_routed_experts", 0)
    for key in () if experts else ("num_local_experts", "num_experts"):
        config.only(key, 0)


def window_notes(window: int | None) -> list[str]:
    """The note on an attention window that GGUF has no key for in this architecture."""
    if window is None:
        return []
    return [f"the attention window of {window} tokens is left out, as llama.cpp does"]


def shortest(value: float) -> float:
    """The shortest decimal number that is the same f32."""
    return float(str(np.float32(value)))


def decoder_config(metadata: Mapping[str, Any], arch: str, h: HParams) -> dict[str, Any]:
    """config.json keys every decoder has."""
    config: dict[str, Any] = {
        "hidden_size": h.n_embd,
        "intermediate_size": h.n_ff,
        "num_hidden_layers": h.n_layer,
        "num_attention_heads": h.n_head,
        "num_key_value_heads": h.n_head_kv,
        "head_dim": h.head_dim,
        "max_position_embeddings": h.n_ctx,
        "rms_norm_eps": shortest(h.rms_eps),
        "rope_theta": shortest(h.rope_base),
        "vocab_size": h.n_vocab,
        "dtype": "float32",
    }
    for key in ("bos", "eos", "pad"):
        name = "padding" if key == "pad" else key
        config[f"{key}_token_id"] = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if h.rope_scaling.kind != "none":
        scaling = {"rope_type": h.rope_scaling.kind, "factor": shortest(h.rope_scaling.factor)}
        if h.rope_scaling.kind == "yarn":
            scaling["original_max_position_embeddings"] = h.rope_scaling.original_context
            for name, key in YARN_KEYS.items():
                value = metadata.get(f"{arch}.rope.scaling.{key}")
                if value is not None:
                    scaling[name] = shortest(value)
        config["rope_scaling"] = scaling
    return config


def decoder_tensors(h: HParams, layer_rules: Sequence[Layer]) -> list[TensorRule]:
    """Embedding, `layer_rules` for every layer, final norm and the head, which may be tied.

    A layer rule is (GGUF name, checkpoint name, shape, transform, optional) within the layer.
    """
    rules = [_rule("token_embd.weight", "model.embed_tokens.weight", (h.n_vocab, h.n_embd))]
    for n in range(h.n_layer):
        for name, source, shape, transform, optional in layer_rules:
            rules.append(
                TensorRule(
                    f"blk.{n}.{name}",
                    f"model.layers.{n}.{source}",
                    shape,
                    transform,
                    optional,
                    name.rpartition(".")[0],
                    n,
                )
            )
    rules.append(_rule("output_norm.weight", "model.norm.weight", (h.n_embd,)))
    rules.append(_rule("output.weight", "lm_head.weight", (h.n_vocab, h.n_embd), optional=True))
    return rules


def _rule(
    name: str, source: str | None, shape: tuple[int, ...], optional: bool = False
) -> TensorRule:
    return TensorRule(name, source, shape, None, optional, name.rpartition(".")[0])


def attention_and_ffn(h: HParams, rope: Transform | None = None) -> list[Layer]:
    """The seven matrices of a layer; `rope` reorders the rows of query and key."""
    return [
        *attention_matrices(h, rope),
        ("ffn_gate.weight", "mlp.gate_proj.weight", (h.n_ff, h.n_embd), None, False),
        ("ffn_up.weight", "mlp.up_proj.weight", (h.n_ff, h.n_embd), None, False),
        ("ffn_down.weight", "mlp.down_proj.weight", (h.n_embd, h.n_ff), None, False),
    ]


def attention_matrices(h: HParams, rope: Transform | None = None) -> list[Layer]:
    """The four matrices of attention; `rope` reorders the rows of query and key."""
    q, kv = h.n_head * h.head_dim, h.n_head_kv * h.head_dim
    return [
        ("attn_q.weight", "self_attn.q_proj.weight", (q, h.n_embd), rope, False),
        ("attn_k.weight", "self_attn.k_proj.weight", (kv, h.n_embd), rope, False),
        ("attn_v.weight", "self_attn.v_proj.weight", (kv, h.n_embd), None, False),
        ("attn_output.weight", "self_attn.o_proj.weight", (h.n_embd, q), None, False),
    ]
