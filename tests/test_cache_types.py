"""What a KV cache of few bits costs: no more than it costs llama.cpp, on the same weights."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import ggq
from tests.llama_server import LlamaServer
from tests.models import TINY, VOCAB_SIZE
from tests.test_kld import log_softmax

# Heads of 64 and weights as singles: nothing is rounded but what the cache holds.
MODEL = replace(TINY["llama"], config=TINY["llama"].config | {"hidden_size": 256})
TOKENS, EVERY = 384, 4
NOISE = 1e-6  # nats between two programs that sum in other orders

Rows = dict[int, npt.NDArray[np.float64]]  # log-probabilities [V] behind so many tokens


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write_gguf(tmp_path_factory.mktemp("cache") / "model.gguf")


@pytest.fixture(scope="module")
def precise(path: Path) -> Rows:
    """With a cache of singles: llama.cpp has none, it makes halves of them for its attention."""
    return ours(path, "f32")


def theirs(path: Path, cache_type: str) -> Rows:
    """llama.cpp's where it tells them: not behind a part of a character."""
    tokens, rows = MODEL.prompt(TOKENS), {}
    with LlamaServer(path, cache_type=cache_type) as server:
        for end in range(EVERY, TOKENS + 1, EVERY):
            with suppress(KeyError):
                ids, logs = server.top_log_probabilities(tokens[:end], VOCAB_SIZE, end)
                rows[end] = logs[0][np.argsort(ids[0])]
    assert len(rows) > TOKENS // EVERY // 2
    return rows


def ours(path: Path, cache_type: str) -> Rows:
    """Read in two parts and token by token, so that all ways to fill and read a cache take part."""
    tokens = MODEL.prompt(TOKENS)
    types = {"cache_type_k": cache_type, "cache_type_v": cache_type}
    with ggq.load(path, n_threads=1, **types) as model:
        session = model.session(TOKENS)
        logits = [*session.score(tokens[:100]), *session.score(tokens[100:300])]
        logits += [session.decode(token) for token in tokens[300:]]
    return {end: log_softmax(row) for end, row in enumerate(logits, 1)}


def divergence(rows: Rows, others: Rows) -> float:
    """Mean KL(rows || others) in nats where both are known."""
    found = [float(np.exp(row) @ (row - others[end])) for end, row in rows.items() if end in others]
    assert len(found) > 20
    return float(np.mean(found))


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8_0", "q4_0"])
def test_a_smaller_cache_costs_no_more_than_llama_cpps(
    cache_type: str, path: Path, precise: Rows
) -> None:
    found, same = ours(path, cache_type), theirs(path, cache_type)
    figures = {
        "ours": divergence(precise, found),
        "theirs": divergence(precise, same),
        "apart": divergence(same, found),
    }
    print(cache_type, {name: f"{value:.2e}" for name, value in figures.items()})
    assert figures["ours"] <= 1.25 * figures["theirs"] + NOISE, figures
    assert figures["apart"] <= figures["theirs"] + NOISE, figures
