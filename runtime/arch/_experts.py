"""What decoders with a mixture of experts share: counts, keys and the stacked tensors.

Keys: llama.cpp conversion/base.py and conversion/qwen.py `Qwen2MoeModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ggq.runtime.arch._base import Entry, HParams
from ggq.runtime.arch._config import Config
from ggq.runtime.arch._decoder import U32, Layer
from ggq.runtime.arch._hparams import Keys, decoder_hparams

if TYPE_CHECKING:
    from ggq.runtime.graph import Graph, Rows

MAX_EXPERTS = 1024  # llama.cpp src/llama-hparams.h LLAMA_MAX_EXPERTS
NOT_IMPLEMENTED = (
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_group_count",
    "expert_group_used_count",
    "expert_weights_scale",
    "leading_dense_block_count",
    "interleave_moe_layer_step",
    "moe_every_n_layers",
)
SOFTMAX = 1  # of the gating functions, gguf-py ExpertGatingFuncType


@dataclass(frozen=True)
class ExpertHParams(HParams):
    """Every layer has `n_expert` feed-forward parts of width `n_ff_expert`, of which it uses some.

    The router's softmax picks the `n_expert_used` likeliest; their weights are made to sum to 1.
    """

    n_expert: int
    n_expert_used: int
    n_ff_expert: int


def expert_counts(c: Config) -> list[Entry]:
    """The keys that stand among those of every decoder."""
    return [
        ("expert_count", U32, c.integer("num_local_experts", c.integer("num_experts"))),
        ("expert_used_count", U32, c.integer("num_experts_per_tok")),
    ]


def expert_config(h: ExpertHParams) -> dict[str, Any]:
    """config.json keys of the experts."""
    return {
        "num_experts": h.n_expert,
        "num_experts_per_tok": h.n_expert_used,
        "moe_intermediate_size": h.n_ff_expert,
        "norm_topk_prob": True,
    }


def expert_hparams(metadata: Mapping[str, Any], arch: str) -> ExpertHParams:
    """Checked keys of a decoder whose layers all have experts."""
    keys = Keys(metadata, arch)
    fields = decoder_hparams(metadata, arch, experts=True)
    for key in NOT_IMPLEMENTED:
        keys.absent(key)
    if keys.get("expert_gating_func") not in (None, 0, SOFTMAX):
        raise keys.wrong("expert_gating_func", f"{SOFTMAX}, softmax")
    count = keys.integer("expert_count", MAX_EXPERTS)
    used = keys.integer("expert_used_count", MAX_EXPERTS)
    if used > count:
        raise keys.wrong("expert_used_count", f"at most {count}, the expert count")
    width = keys.integer("expert_feed_forward_length", default=max(1, fields["n_ff"] // used))
    return ExpertHParams(**fields, n_expert=count, n_expert_used=used, n_ff_expert=width)


def expert_tensors(h: ExpertHParams) -> list[Layer]:
    """The router, and three stacks of matrices."""
    inward, outward = (h.n_expert, h.n_ff_expert, h.n_embd), (h.n_expert, h.n_embd, h.n_ff_expert)
    return [
        ("ffn_gate_inp.weight", "mlp.gate.weight", (h.n_expert, h.n_embd), None, False),
        ("ffn_gate_exps.weight", "mlp.experts.{}.gate_proj.weight", inward, None, False),
        ("ffn_up_exps.weight", "mlp.experts.{}.up_proj.weight", inward, None, False),
        ("ffn_down_exps.weight", "mlp.experts.{}.down_proj.weight", outward, None, False),
    ]


def expert_ffn(h: ExpertHParams) -> Callable[[Graph, Rows, str, Rows], None]:
    """The feed-forward part of `decoder_forward`, of experts."""

    def ffn(g: Graph, f: Rows, blk: str, x: Rows) -> None:
        g.experts(f, f"{blk}ffn", h.n_expert_used, into=x)

    return ffn
