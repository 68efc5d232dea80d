"""The forward pass most decoders share: norm, attention, add; norm, feed-forward, add."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggq.runtime.arch._base import HParams
    from ggq.runtime.graph import Graph, Rows


def gated_ffn(g: Graph, f: Rows, blk: str, x: Rows) -> None:
    """x += down(silu(gate f) * up f), with the biases the file has."""
    gate, up = (g.linear(f, f"{blk}ffn_{n}", bias=f"{blk}ffn_{n}.bias") for n in ("gate", "up"))
    hidden = g.gated("silu", gate, up)
    g.linear(hidden, f"{blk}ffn_down", into=x, bias=f"{blk}ffn_down.bias")


def decoder_forward(
    g: Graph, h: HParams, *, neox: bool, head_norms: bool = False,
    ffn: Callable[[Graph, Rows, str, Rows], None] = gated_ffn,
) -> None:  # fmt: skip
    """Pre-norm decoder. `neox`: rope pairs half a head apart; else neighbours.

    `ffn(g, f, blk, x)` adds to x what the feed-forward part of layer `blk` makes of f.
    """
    rope = g.rope(h.rope_dim, h.rope_base, h.rope_scaling, "rope_freqs.weight")
    x = g.embed("token_embd.weight")
    for layer in range(h.n_layer):
        blk = f"blk.{layer}."
        a = g.norm(x, f"{blk}attn_norm.weight", h.rms_eps)
        q, k, v = (g.linear(a, f"{blk}attn_{n}", bias=f"{blk}attn_{n}.bias") for n in "qkv")
        o = g.attention(
            q, k, v, layer, heads_q=h.n_head, heads_kv=h.n_head_kv, dims=h.head_dim, rope=rope,
            neox=neox, scale=h.attention_scale, eps=h.rms_eps,
            q_norm=f"{blk}attn_q_norm.weight" if head_norms else "",
            k_norm=f"{blk}attn_k_norm.weight" if head_norms else "",
        )  # fmt: skip
        g.linear(o, f"{blk}attn_output", into=x, bias=f"{blk}attn_output.bias")
        f = g.norm(x, f"{blk}ffn_norm.weight", h.rms_eps)
        ffn(g, f, blk, x)
    last = g.norm(x, "output_norm.weight", h.rms_eps, last=True)
    g.output(last, output_name(g))


def output_name(g: Graph) -> str:
    """The output matrix, which is the embedding's where the file has no own."""
    return "output" if g.has("output.weight") else "token_embd"
