"""Divergences of files against sums in double precision, and chunks against what llama.cpp says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggq
from ggq.convert.eval import Chunks, chunks_of, evaluate
from ggq.convert.eval.compare import LLAMA_FLOOR, Compared, Comparer
from ggq.convert.eval.evaluate import check_vocabularies
from ggq.convert.eval.sources import opened
from ggq.errors import GGQError, UsageError
from tests.eval_files import tiny_chunks, write_broken, write_pair
from tests.models import VOCAB_SIZE

F64 = npt.NDArray[np.float64]


def log_softmax(x: npt.NDArray[np.float32]) -> F64:
    shifted = x.astype(np.float64) - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def wanted(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32], t: F64) -> Compared:
    a, b, rows = log_softmax(p), log_softmax(q), np.arange(len(p))
    kld = (np.exp(a) * (a - b)).sum(axis=1)
    delta = np.exp(b[rows, t]) - np.exp(a[rows, t])
    return Compared(-b[rows, t], -a[rows, t], kld, delta, p.argmax(axis=1) == q.argmax(axis=1))


def rows_of(rng: np.random.Generator, n: int, V: int, noise: float) -> tuple[F64, ...]:
    p = (rng.normal(size=(n, V)) * 4).astype(np.float32)
    q = (p + rng.normal(size=p.shape) * noise).astype(np.float32)
    return p, q, rng.integers(0, V, n).astype(np.int32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), n=st.integers(1, 9), threads=st.integers(1, 3),
    V=st.sampled_from([1, 5, 63, 64, 65, 127, 4097, 30011]), noise=st.sampled_from([0.01, 0.3, 3]),
)  # fmt: skip
def test_compared_logits_are_those_of_double_precision(
    seed: int, n: int, threads: int, V: int, noise: float
) -> None:
    p, q, t = rows_of(np.random.default_rng(seed), n, V, noise)
    with Comparer(threads) as compare:
        found, same = compare(p, q, t), compare(p, p, t)
    right = wanted(p, q, t)
    for name in ("nll", "reference_nll", "kld", "delta_p"):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), atol=2e-6, rtol=1e-6)
    assert np.array_equal(found.same_top, right.same_top)
    assert not same.kld.any()
    assert same.same_top.all()


def test_of_equal_logits_the_first_is_the_top() -> None:
    p = np.zeros((1, 100), np.float32)
    p[0, [40, 70]] = 1.0
    q = np.zeros((1, 100), np.float32)
    q[0, 40] = 1.0
    with Comparer(1) as compare:
        assert compare(p, q, np.zeros(1, np.int32)).same_top[0]
        assert not compare(p[:, ::-1].copy(), q, np.zeros(1, np.int32)).same_top[0]


def test_log_probabilities_of_llama_cpp_count_above_their_floor() -> None:
    p, q, t = rows_of(np.random.default_rng(5), 6, 1000, 0.3)
    base = np.maximum(log_softmax(p * 2), LLAMA_FLOOR).astype(np.float32)
    b, a = log_softmax(q), base.astype(np.float64)
    with Comparer(2) as compare:
        found = compare(base, q, t, llama_base=True)
    kld = np.where(a > LLAMA_FLOOR, np.exp(a) * (a - b), 0).sum(axis=1)
    np.testing.assert_allclose(found.kld, kld, atol=2e-6, rtol=1e-6)
    np.testing.assert_allclose(found.reference_nll, -a[np.arange(6), t], rtol=1e-6)


# --- chunks ---------------------------------------------------------------------------------------


class Numbered:
    """A tokenizer whose tokens are the text's words."""

    bos, add_bos = 99, True

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert add_special
        assert not parse_special
        return [self.bos, *map(int, text.split())]


def test_chunks_begin_with_bos_and_are_asked_for_their_second_half() -> None:
    chunks = chunks_of(Numbered(), " ".join(map(str, range(1, 24))), n_ctx=8)
    assert len(chunks) == 3
    assert chunks.tokens[1].tolist() == [8, 9, 10, 11, 12, 13, 14, 15]
    assert chunks.fed(1).tolist() == [99, 9, 10, 11, 12, 13, 14]
    assert chunks.first == 4
    assert chunks.targets(1).tolist() == [13, 14, 15]
    assert chunks.scored == 3
    assert len(chunks_of(Numbered(), " ".join(map(str, range(1, 24))), n_ctx=8, limit=2)) == 2


def test_a_vocabulary_without_bos_keeps_the_first_token() -> None:
    tokens = np.arange(8, dtype=np.int32).reshape(1, 8)
    assert Chunks(tokens).fed(0).tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("words", "n_ctx", "message"), [
    (14, 8, "text has 15 tokens; wanted at least 16"),
    (100, 5, "a context of 5 tokens; wanted at least 6"),
])  # fmt: skip
def test_too_short_a_text_or_context(words: int, n_ctx: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chunks_of(Numbered(), " ".join(["1"] * words), n_ctx=n_ctx)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a coarser copy of it."""
    return write_pair(tmp_path_factory.mktemp("eval"))


def test_a_file_beside_its_reference(tiny: tuple[Path, Path]) -> None:
    reference, candidate = tiny
    chunks, seen = tiny_chunks(), []
    found = evaluate(candidate, reference, chunks, threads=1, progress=lambda *n: seen.append(n))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.chunk.tolist() == [n for n in range(3) for _ in range(19)]
    logits = []
    for path in tiny:
        with ggq.load(path, n_threads=1) as model:
            logits.append([model.logits(chunks.fed(n).tolist())[20:] for n in range(3)])
    for n in range(3):
        right = wanted(logits[0][n], logits[1][n], chunks.targets(n))
        of_chunk = found.chunk == n
        np.testing.assert_allclose(found.kld[of_chunk], right.kld, atol=1e-5)
        np.testing.assert_allclose(found.nll[of_chunk], right.nll, atol=1e-5)
        assert np.array_equal(found.same_top[of_chunk], right.same_top)
    assert found.mean_kld > 1e-3
    assert found.perplexity == pytest.approx(np.exp(found.nll.mean()))


def test_a_file_beside_itself_does_not_diverge(tiny: tuple[Path, Path]) -> None:
    found = evaluate(tiny[0], tiny[0], tiny_chunks(), threads=2)
    assert not found.kld.any()
    assert not found.delta_p.any()
    assert found.perplexity == found.reference_perplexity


def test_files_of_other_vocabularies_are_refused(tiny: tuple[Path, Path]) -> None:
    with opened(tiny[0], threads=1) as one, opened(tiny[1], threads=1) as other:
        other.n_vocab += 1
        with pytest.raises(UsageError, match=f"{VOCAB_SIZE + 1} tokens, the reference f32.gguf"):
            check_vocabularies(one, [other])


def test_logits_that_are_not_finite_are_refused(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    path = write_broken(tmp_path / "nan.gguf")
    with pytest.raises(GGQError, match=r"nan.gguf: its logits.*not finite in chunk 0"):
        evaluate(path, tiny[0], tiny_chunks(), threads=1)
