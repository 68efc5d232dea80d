"""The tiny test models themselves: the same weights everywhere."""

from __future__ import annotations

import hashlib

import numpy as np

from tests.gguf_file import bf16_bits
from tests.models import TINY, adjacent_pairs, seeded, vocabulary


def test_seeded_weights_never_change() -> None:
    digest = hashlib.sha256(seeded("weight", (512, 64), 0.02).tobytes()).hexdigest()
    assert digest == "ee066a9b4c7ceb8812ade0e4085c5bd8041281dad329f8178008d5bf386e2be7"


def test_seeded_weights_have_the_stated_spread() -> None:
    x = seeded("weight", (512, 64), 0.02)
    assert abs(x.std() - 0.02) < 2e-4
    assert abs(x.mean()) < 3e-4


def test_every_tiny_vocabulary_entry_is_distinct() -> None:
    assert len(set(vocabulary())) == len(vocabulary()) == TINY["llama"].config["vocab_size"]


def test_adjacent_pairs_pairs_rows_half_a_head_apart() -> None:
    x = np.arange(8, dtype=np.float32)[:, None]
    assert adjacent_pairs(x, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_bf16_rounds_to_nearest_even() -> None:
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-9)], np.float32)
    assert bf16_bits(x).tolist() == [0x3F80, 0x3F80, 0x3F82, 0xBF80]
