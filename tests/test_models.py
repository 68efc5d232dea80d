"""The test models themselves: the same weights everywhere, and the same function when widened."""

from __future__ import annotations

import hashlib

import numpy as np

from tests.gguf_file import bf16_bits
from tests.models import TINY, adjacent_pairs, seeded, spread, vocabulary, widen


def test_seeded_weights_never_change() -> None:
    digest = hashlib.sha256(seeded("weight", (512, 64), 0.02).tobytes()).hexdigest()
    assert digest == "ee066a9b4c7ceb8812ade0e4085c5bd8041281dad329f8178008d5bf386e2be7"


def test_seeded_weights_have_the_stated_spread() -> None:
    x = seeded("weight", (512, 64), 0.02)
    assert abs(x.std() - 0.02) < 2e-4
    assert abs(x.mean()) < 3e-4


def test_every_tiny_vocabulary_entry_is_distinct() -> None:
    assert len(set(vocabulary())) == len(vocabulary()) == TINY["llama"].config["vocab_size"]


def test_spread_puts_a_zero_after_every_third_entry() -> None:
    x = np.arange(1, 7, dtype=np.float32)
    assert spread(x, 0).tolist() == [1, 2, 3, 0, 4, 5, 6, 0]


def test_adjacent_pairs_pairs_rows_half_a_head_apart() -> None:
    x = np.arange(8, dtype=np.float32)[:, None]
    assert adjacent_pairs(x, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_widened_norm_and_projection_compute_the_same() -> None:
    x, norm = seeded("x", (5, 576), 1.0), seeded("norm", (576,), 0.2) + np.float32(1)
    up = seeded("up", (32, 576), 0.05)

    def project(x: np.ndarray, norm: np.ndarray, up: np.ndarray, eps: float) -> np.ndarray:
        x = x.astype(np.float64)
        return (x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * norm) @ up.T

    narrow = project(x, norm, up, 1e-5)
    wide_up, wide_norm = widen("blk.0.ffn_up.weight", up), widen("blk.0.ffn_norm.weight", norm)
    wide = project(spread(x, 1), wide_norm, wide_up, 0.75e-5)
    np.testing.assert_allclose(wide, narrow, rtol=1e-6, atol=1e-7)


def test_the_widened_shapes() -> None:
    def shape(name: str, *old: int) -> tuple[int, ...]:
        return widen(name, np.ones(old, np.float32)).shape

    assert shape("token_embd.weight", 10, 576) == (10, 768)
    assert shape("blk.0.attn_q.weight", 576, 576) == (768, 768)
    assert shape("blk.0.attn_k.weight", 192, 576) == (256, 768)
    assert shape("blk.0.attn_v.weight", 192, 576) == (256, 768)
    assert shape("blk.0.attn_output.weight", 576, 576) == (768, 768)
    assert shape("blk.0.ffn_down.weight", 576, 1536) == (768, 1536)
    assert shape("output_norm.weight", 576) == (768,)


def test_bf16_rounds_to_nearest_even() -> None:
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-9)], np.float32)
    assert bf16_bits(x).tolist() == [0x3F80, 0x3F80, 0x3F82, 0xBF80]
