"""Metadata of a file -> checked hyper-parameters of a decoder. Nothing the file says is believed.

Keys and defaults: llama.cpp src/llama-model.cpp `load_hparams`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ggq.errors import FormatError
from ggq.runtime.arch._base import RopeScaling

MAX_LAYERS = 512
MAX_WIDTH = 2**24
MAX_CONTEXT = 2**30  # the kernels count positions in 32 bits and look a tile ahead
MIN_SINGLE, MAX_SINGLE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
EXPERTS = ("expert_count", "expert_used_count")
NOT_IMPLEMENTED = (
    "nextn_predict_layers",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "rope.scaling.alpha",
    "rope.scaling.yarn_log_multiplier",
)


class Keys:
    """The "{arch}." keys of one file, read with type and range checks."""

    def __init__(self, metadata: Mapping[str, Any], arch: str) -> None:
        self._metadata = metadata
        self._arch = arch

    def __contains__(self, key: str) -> bool:
        return f"{self._arch}.{key}" in self._metadata

    def get(self, key: str) -> Any:
        """The raw value, or None."""
        return self._metadata.get(f"{self._arch}.{key}")

    def integer(self, key: str, largest: int = MAX_WIDTH, default: int | None = None) -> int:
        """A whole number in 1..largest."""
        value = self.get(key) if key in self else default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise self.wrong(key, f"a whole number in 1..{largest}")
        return value

    def number(self, key: str, default: float | None = None, above: float = 0.0) -> float:
        """A number above `above` that a single can hold."""
        value = self.get(key) if key in self else default
        if not isinstance(value, float) or not above < value <= MAX_SINGLE or value < MIN_SINGLE:
            raise self.wrong(key, f"a finite number above {above:g}")
        return value

    def absent(self, key: str) -> None:
        """Refuse a key that changes the model in a way that is not implemented."""
        value = self.get(key)
        if value is not None and value != 0:
            raise self.wrong(key, "no such key: it is not implemented for this architecture")

    def wrong(self, key: str, wanted: str) -> FormatError:
        """The error for a key that lies."""
        value = self.get(key)
        found = "missing" if value is None else repr(value)[:80]
        return FormatError(f"metadata key {self._arch}.{key} is {found}, wanted {wanted}")


def decoder_hparams(
    metadata: Mapping[str, Any], arch: str, *, experts: bool = False
) -> dict[str, Any]:
    """The fields of `HParams` for a decoder with grouped attention, rope and gated feed-forward.

    One without `experts` refuses a file that counts some.
    """
    keys = Keys(metadata, arch)
    for key in NOT_IMPLEMENTED if experts else (*EXPERTS, *NOT_IMPLEMENTED):
        keys.absent(key)
    if keys.get("attention.causal") is False:
        raise keys.wrong(
            "attention.causal", "true: attention in both directions is not implemented"
        )
    n_embd = keys.integer("embedding_length")
    n_head = keys.integer("attention.head_count")
    n_head_kv = keys.integer("attention.head_count_kv", default=n_head)
    if n_head % n_head_kv:
        raise keys.wrong("attention.head_count_kv", f"a divisor of the head count {n_head}")
    if "attention.key_length" not in keys and n_embd % n_head:
        raise keys.wrong("attention.head_count", f"a divisor of the embedding length {n_embd}")
    head_dim = keys.integer("attention.key_length", 2**14, default=max(1, n_embd // n_head))
    if head_dim % 2:
        raise keys.wrong("attention.key_length", f"an even number, not {head_dim}")
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.integer(key, 2**14, default=head_dim) != head_dim:
            raise keys.wrong(key, f"{head_dim}, the length of a key")
    if n_head * head_dim > MAX_WIDTH:
        raise keys.wrong("attention.head_count", f"at most {MAX_WIDTH // head_dim} heads")
    n_ctx = keys.integer("context_length", MAX_CONTEXT)
    eps = keys.number("attention.layer_norm_rms_epsilon")
    if eps >= 1:
        raise keys.wrong("attention.layer_norm_rms_epsilon", "a number between 0 and 1")
    return {
        "n_layer": keys.integer("block_count", MAX_LAYERS),
        "n_embd": n_embd,
        "n_ff": keys.integer("feed_forward_length"),
        "n_head": n_head,
        "n_head_kv": n_head_kv,
        "head_dim": head_dim,
        "n_vocab": vocabulary_size(metadata, keys),
        "n_ctx": n_ctx,
        "rms_eps": eps,
        "rope_base": keys.number("rope.freq_base", 10000.0, above=1.0),
        "rope_dim": head_dim,
        "rope_scaling": rope_scaling(keys, n_ctx),
        "attention_scale": 1 / math.sqrt(head_dim),
    }


def vocabulary_size(metadata: Mapping[str, Any], keys: Keys) -> int:
    """Number of tokens, checked against the key that repeats it."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None or isinstance(tokens, str | int | float | np.ndarray) or not len(tokens):
        raise FormatError("metadata key tokenizer.ggml.tokens is missing or holds no tokens")
    if keys.integer("vocab_size", default=len(tokens)) != len(tokens):
        raise keys.wrong("vocab_size", f"{len(tokens)}, the length of tokenizer.ggml.tokens")
    return len(tokens)


def rope_scaling(keys: Keys, n_ctx: int) -> RopeScaling:
    """The rope.scaling.* keys. Without a type they mean linear, as in llama.cpp."""
    kind = keys.get("rope.scaling.type") or "linear"
    if kind not in ("none", "linear", "yarn"):
        raise keys.wrong("rope.scaling.type", "none, linear or yarn")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    attn_factor = keys.number("rope.scaling.attn_factor", 1.0)
    if kind == "none":
        return RopeScaling(attn_factor=attn_factor)
    if kind == "linear":
        kind = "none" if factor == 1 else "linear"
        return RopeScaling(kind, factor, attn_factor=attn_factor)
    magnitude = keys.number("rope.scaling.yarn_attn_factor", 1 + 0.1 * math.log(max(factor, 1.0)))
    return RopeScaling(
        "yarn",
        factor,
        attn_factor * magnitude,
        keys.integer("rope.scaling.original_context_length", MAX_CONTEXT, default=n_ctx),
        keys.number("rope.scaling.yarn_ext_factor", 1.0),
        keys.number("rope.scaling.yarn_beta_fast", 32.0),
        keys.number("rope.scaling.yarn_beta_slow", 1.0),
    )
