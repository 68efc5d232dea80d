"""Kullback-Leibler divergence from llama.cpp on real text, over its 1,000 likeliest tokens.

llama.cpp on the weights as singles, and ggq told to be exact on the quantized file, compute the
same. On the quantized file both round activations to eight bits, and a difference in the last bit
of a sum decides on which side a value is rounded: after a few layers two such computations are as
far apart as each is from the exact one. llama.cpp is as far from itself when it reads a prompt at
once instead of token by token. So what is held against ggq there is llama.cpp's own distance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import ggq
from tests.exact import write_f32
from tests.llama_server import LlamaServer

TEXT = Path(__file__).parent / "data" / "moby-dick.txt"
TOKENS = 512
TOP = 1000
EVERY = 8  # llama.cpp is slow with single precision files: of them only every so many positions

F64Array = npt.NDArray[np.float64]
Top = tuple[npt.NDArray[np.int64], F64Array]  # ids and log-probabilities, [T, TOP]


def logits_of(path: Path, tokens: list[int], exact: bool = False) -> npt.NDArray[np.float32]:
    with ggq.load(path, n_threads=1, exact=exact) as model:
        return model.logits(tokens)


def divergence(top: Top, logits: npt.NDArray[np.float32]) -> float:
    """Mean KL(top || softmax(logits)) in nats; all tokens that are not in `top` are one bin."""
    return float(np.mean([_one(*each) for each in zip(*top, logits, strict=True)]))


def _one(ids: npt.NDArray[np.int64], log_p: F64Array, logits: npt.NDArray[np.float32]) -> float:
    log_q = log_softmax(logits)[ids]
    p, q = np.exp(log_p), np.exp(log_q)
    rest_p, rest_q = max(1.0 - p.sum(), 1e-12), max(1.0 - q.sum(), 1e-12)
    return float(p @ (log_p - log_q) + rest_p * np.log(rest_p / rest_q))


def log_softmax(logits: npt.NDArray[np.float32]) -> F64Array:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def top_of(logits: npt.NDArray[np.float32]) -> Top:
    """What a server with these logits would say."""
    ids = np.argpartition(logits, -TOP, axis=1)[:, -TOP:]
    logs = np.array([log_softmax(row)[i] for row, i in zip(logits, ids, strict=True)])
    return ids, logs


@pytest.fixture(params=["smollm2", "gemma3"])
def published(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_divergence_from_llama_cpp(published: Path, tmp_path: Path) -> None:
    with LlamaServer(published) as server:
        tokens = server.tokenize(TEXT.read_text(encoding="utf-8"))[:TOKENS]
        theirs = server.top_log_probabilities(tokens, TOP)
    f32 = write_f32(published, tmp_path / "f32.gguf")
    with LlamaServer(f32) as server:
        theirs_exact = server.top_log_probabilities(tokens, TOP, EVERY)
    f32.unlink()
    ours, exact = logits_of(published, tokens), logits_of(published, tokens, exact=True)
    figures = {
        "exact: llama.cpp || ggq": divergence(theirs_exact, exact[EVERY - 1 :: EVERY]),
        "llama.cpp || exact": divergence(theirs, exact),
        "ggq || exact": divergence(top_of(ours), exact),
        "llama.cpp || ggq": divergence(theirs, ours),
    }
    print(published.name, {name: f"{value:.2e}" for name, value in figures.items()})
    assert figures["exact: llama.cpp || ggq"] <= 1e-3, figures
    assert figures["ggq || exact"] <= 1.25 * figures["llama.cpp || exact"], figures
    assert figures["llama.cpp || ggq"] <= 1.5 * figures["llama.cpp || exact"], figures


def test_tokens_that_are_not_listed_are_one_bin() -> None:
    top = np.array([[0, 1]]), np.log([[0.5, 0.25]])
    split = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    assert divergence(top, split) == pytest.approx(0.0, abs=1e-7)
    even = np.log(np.array([[0.25, 0.25, 0.25, 0.25]], np.float32))
    wanted = 0.5 * np.log(0.5 / 0.25) + 0.25 * np.log(0.25 / 0.25) + 0.25 * np.log(0.25 / 0.5)
    assert divergence(top, even) == pytest.approx(wanted, abs=1e-7)
