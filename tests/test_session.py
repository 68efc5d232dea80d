"""Sessions: limits of the context, going back, wrong tokens, closing, several at once, threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import ContextError, OutOfMemoryError, UsageError
from ggq.runtime.model import Model
from tests.models import TINY, VOCAB_SIZE

LLAMA = replace(TINY["llama"], config=TINY["llama"].config | {"num_hidden_layers": 2})
# Of layers with a window and layers without; the window is shorter than the prompts here.
GEMMA = TINY["gemma3"]
CONTEXT = int(LLAMA.config["max_position_embeddings"])
SAME = 2.0**-13  # of the range: sums in another order, see test_logits.py


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = LLAMA.write_gguf(tmp_path_factory.mktemp("session") / "llama.gguf")
    with ggq.load(path, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = GEMMA.write_gguf(tmp_path_factory.mktemp("session") / "gemma.gguf")
    with ggq.load(path, n_threads=1) as model:
        yield model


@pytest.fixture(params=["llama", "gemma"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


def apart(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(x - y).max() / np.ptp(y))


@pytest.mark.parametrize("n_ctx", [1, 2, 15, 16, 17, 31, 33])
def test_the_context_is_full_to_the_last_position(model: Model, n_ctx: int) -> None:
    tokens = LLAMA.prompt(n_ctx + 1)
    wide = model.session(64)
    wanted = wide.score(tokens[:n_ctx])
    for fill in ("prefill", "decode", "score"):
        session = model.session(n_ctx)
        assert (session.n_ctx, session.n_past) == (n_ctx, 0)
        if fill == "decode":
            last = [session.decode(token) for token in tokens[:n_ctx]][-1]
        else:
            last = getattr(session, fill)(tokens[:n_ctx]).reshape(-1, VOCAB_SIZE)[-1]
        assert apart(last, wanted[-1]) < SAME
        assert session.n_past == n_ctx
        with pytest.raises(ContextError, match=rf"{n_ctx} \+ 1 tokens .* context of {n_ctx}"):
            session.decode(tokens[n_ctx])
        assert session.n_past == n_ctx


def test_a_text_that_is_too_long_changes_nothing(model: Model) -> None:
    tokens = LLAMA.prompt(20)
    session = model.session(16)
    for call in (session.prefill, session.score):
        with pytest.raises(ContextError, match=r"0 \+ 17 tokens"):
            call(tokens[:17])
    assert session.n_past == 0
    first = session.prefill(tokens[:10])
    with pytest.raises(ContextError, match=r"10 \+ 7 tokens"):
        session.prefill(tokens[10:17])
    again = model.session(16)
    assert np.array_equal(again.prefill(tokens[:10]), first)
    assert np.array_equal(again.decode(tokens[10]), session.decode(tokens[10]))


def test_a_prompt_of_several_batches(model: Model) -> None:
    tokens = LLAMA.prompt(1100)
    scored = model.session(1100).score(tokens)
    session = model.session(1100)
    assert apart(session.prefill(tokens), scored[-1]) < SAME
    session.rewind(700)
    assert apart(session.prefill(tokens[700:]), scored[-1]) < SAME


@pytest.mark.parametrize("count", range(2, 10))
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_few_tokens_at_once_are_the_same_as_one_by_one(
    name: str, count: int, tmp_path: Path
) -> None:
    tokens = LLAMA.prompt(40 + count)
    path = TINY[name].write_gguf(tmp_path / "model.gguf")
    results = []
    for n_threads in (1, 3):
        with ggq.load(path, n_threads=n_threads) as model:
            session = model.session(64)
            session.prefill(tokens[:40])
            singly = np.stack([session.decode(token) for token in tokens[40:]])
            session.rewind(40)
            together = session.score(tokens[40:])
            assert apart(together, singly) < SAME
            session.rewind(40)
            assert apart(session.prefill(tokens[40:]), singly[-1]) < SAME
            results.append(together)
    assert np.array_equal(*results)


def test_the_models_own_context_is_the_default(llama: Model) -> None:
    assert llama.session().n_ctx == CONTEXT
    assert llama.session(7).n_ctx == 7
    with pytest.raises(UsageError, match="-1"):
        llama.session(-1)


@pytest.mark.parametrize("keep", [0, 1, 15, 16, 17, 20])
def test_going_back_forgets(model: Model, keep: int) -> None:
    tokens, other = LLAMA.prompt(40), LLAMA.prompt(60)[40:]
    session = model.session(64)
    session.prefill(tokens)
    session.rewind(keep)
    assert session.n_past == keep
    here = [session.decode(token) for token in other]
    fresh = model.session(64)
    for token in tokens[:keep]:
        fresh.decode(token)
    there = [fresh.decode(token) for token in other]
    assert apart(np.stack(here), np.stack(there)) < SAME


def test_going_back_and_on_is_as_if_never_gone(model: Model) -> None:
    tokens = LLAMA.prompt(30)
    session = model.session(64)
    first = [session.decode(token) for token in tokens]
    session.rewind(12)
    second = [session.decode(token) for token in tokens[12:]]
    assert np.array_equal(np.stack(first[12:]), np.stack(second))


@pytest.mark.parametrize("wrong", [-1, 4, 10**9])
def test_going_back_to_where_one_never_was(llama: Model, wrong: int) -> None:
    session = llama.session(8)
    session.prefill([1, 2, 3])
    with pytest.raises(ValueError, match=f"{wrong} tokens: there are 3"):
        session.rewind(wrong)
    assert session.n_past == 3


@pytest.mark.parametrize("wrong", [-1, VOCAB_SIZE, 2**31, 2**40, -(2**63)])
def test_token_outside_the_vocabulary(llama: Model, wrong: int) -> None:
    session = llama.session(8)
    for call in (session.prefill, session.score, llama.logits):
        with pytest.raises(ValueError, match=f"{wrong} is outside the vocabulary of {VOCAB_SIZE}"):
            call([1, wrong, 2])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        session.decode(wrong)
    assert session.n_past == 0
    session.prefill([0, VOCAB_SIZE - 1])


@pytest.mark.parametrize("wrong", [[], [[1, 2]], 5, [1.5], [True], ["a"], [2**70], [None]])
def test_what_is_no_list_of_tokens(llama: Model, wrong: Any) -> None:
    session = llama.session(8)
    for call in (session.prefill, session.score):
        with pytest.raises(ValueError, match="token id"):
            call(wrong)
    assert session.n_past == 0


def test_results_are_the_callers_own(llama: Model) -> None:
    session = llama.session(16)
    first = session.prefill([1, 2, 3])
    kept = first.copy()
    scored = session.score([4, 5])
    kept_scores = scored.copy()
    session.decode(6)
    session.score([7, 8])
    assert np.array_equal(first, kept)
    assert np.array_equal(scored, kept_scores)


def test_sessions_do_not_know_each_other(model: Model) -> None:
    texts = [LLAMA.prompt(24)[i:] for i in (0, 5, 10)]
    alone = [[model.session(32).prefill(text[: n + 1]) for n in range(3)] for text in texts]
    sessions = [model.session(32) for _ in texts]
    for n in range(3):
        for session, text, wanted in zip(sessions, texts, alone, strict=True):
            assert apart(session.decode(text[n]), wanted[n]) < SAME


def test_models_do_not_know_each_other(llama: Model, gemma: Model) -> None:
    tokens = LLAMA.prompt(12)
    wanted = [[*map(each.session(16).decode, tokens)] for each in (llama, gemma)]
    sessions = [llama.session(16), gemma.session(16)]
    for n, token in enumerate(tokens):
        for session, alone in zip(sessions, wanted, strict=True):
            assert np.array_equal(session.decode(token), alone[n])


def test_threads_take_turns(tmp_path: Path) -> None:
    path = LLAMA.write_gguf(tmp_path / "model.gguf")
    texts = [LLAMA.prompt(40)[start : start + 20] for start in range(8)]

    def read(model: Model, text: list[int]) -> np.ndarray:
        session = model.session(32)
        rows = [session.prefill(text[:10]), *(session.decode(token) for token in text[10:])]
        return np.stack(rows)

    with ggq.load(path, n_threads=1) as model:
        alone = [read(model, text) for text in texts]
    with ggq.load(path, n_threads=2) as model, ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: read(model, text), texts))
        assert len([t for t in threading.enumerate() if t.name.startswith("ggq-")]) == 1
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_a_closed_model_refuses(tmp_path: Path) -> None:
    model = ggq.load(LLAMA.write_gguf(tmp_path / "model.gguf"), n_threads=3)
    session, unused = model.session(8), model.session(8)
    session.prefill([1, 2, 3])
    session.decode(4)
    model.close()
    model.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ggq-")]
    for each in (session, unused):
        with pytest.raises(ValueError, match="the model is closed"):
            each.decode(5)
    with pytest.raises(ValueError, match="the model is closed"):
        model.session(8)
    with pytest.raises(ValueError, match="the model is closed"):
        model.logits([1])


def test_a_model_that_was_never_used_closes(tmp_path: Path) -> None:
    with ggq.load(LLAMA.write_gguf(tmp_path / "model.gguf")) as model:
        assert model.hparams.n_layer == 2


def test_wide_layers_have_room(tmp_path: Path) -> None:
    """Layers of very different widths share the threads' own memory."""
    wide = replace(LLAMA, config=LLAMA.config | {"intermediate_size": 8192})
    tokens = wide.prompt(24)
    with ggq.load(wide.write_gguf(tmp_path / "model.gguf"), n_threads=2) as model:
        session = model.session(32)
        scored = session.score(tokens)
        session.rewind(0)
        decoded = np.stack([session.decode(token) for token in tokens])
    assert apart(decoded, scored) < SAME


@pytest.mark.parametrize("change", [{"hidden_size": 60, "head_dim": 16}, {"intermediate_size": 97}])
def test_widths_that_fit_no_vector(change: dict[str, int], tmp_path: Path) -> None:
    odd = replace(LLAMA, config=LLAMA.config | change)
    tokens = odd.prompt(24)
    with ggq.load(odd.write_gguf(tmp_path / "model.gguf"), n_threads=2) as model:
        session = model.session(32)
        scored = session.score(tokens)
        session.rewind(0)
        assert apart(session.prefill(tokens), scored[-1]) < SAME
        session.rewind(0)
        decoded = np.stack([session.decode(token) for token in tokens])
    assert apart(decoded, scored) < SAME


@pytest.mark.parametrize("n_ctx", [1 << 50, 1 << 62])
def test_a_context_beyond_all_memory(llama: Model, n_ctx: int) -> None:
    with pytest.raises(OutOfMemoryError, match=r"GB of memory .* a smaller context") as refusal:
        llama.session(n_ctx)
    assert refusal.value.exit_code == 5
