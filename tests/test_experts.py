"""Mixtures of experts: the choice, the plan, what is read, and llama.cpp on the same files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggq
from ggq.convert import cli
from ggq.runtime.kernels import moe
from ggq.runtime.kernels._op import N_TOKENS, STATE_WORDS, Op
from tests.llama_server import LlamaServer
from tests.models import TINY, VOCAB_SIZE, TinyModel
from tests.test_programs import run_guarded

F32Array = npt.NDArray[np.float32]
TINY_MOE = TINY["qwen3moe"]


def of_size(name: str, **changes: int) -> TinyModel:
    return replace(TINY_MOE, name=name, config=TINY_MOE.config | changes)


# Rows of whole super-blocks; and matrices of whole pages, most of which no token chooses.
WIDE = of_size(
    "wide", hidden_size=256, moe_intermediate_size=256, num_experts=8, num_experts_per_tok=2
)
PAGES = of_size("pages", num_hidden_layers=1, num_experts=64, moe_intermediate_size=160)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WIDE as Q4_K_M."""
    folder = tmp_path_factory.mktemp("experts")
    source, out = WIDE.write_gguf(folder / "wide.gguf"), folder / "q4.gguf"
    with pytest.MonkeyPatch.context() as patch:
        options = ["--type", "q4_k", "--compat", "llama", "-q"]
        patch.setattr("sys.argv", ["ggq-convert", str(source), str(out), *options])
        assert cli.main() == 0
    return out


# -- the operations -------------------------------------------------------------------------------


def run(op: Op, tokens: int, threads: int = 1, **words: int) -> None:
    """An operation on each of `threads` threads in turn, none of which has memory of its own."""
    description, state = np.array(op.describe(**words), np.int64), np.zeros(STATE_WORDS, np.int64)
    state[N_TOKENS] = tokens
    for index in range(threads):
        op.kernel(description.ctypes.data, index, threads, 0, state.ctypes.data)


def routed(logits: F32Array, used: int, threads: int = 1) -> tuple[npt.NDArray[np.int32], F32Array]:
    """Logits f32[T, E] -> experts i32[T, used], weights f32[T, used]."""
    tokens, experts = logits.shape
    logits = np.ascontiguousarray(logits)
    keys, out = np.zeros(experts, np.int32), np.zeros((tokens, 2, used), np.int32)
    run(
        moe.route, tokens, threads, logits=logits.ctypes.data, logits_stride=4 * experts,
        experts=experts, used=used, keys=keys.ctypes.data, out=out.ctypes.data, stride=8 * used,
    )  # fmt: skip
    return out[:, 0], out[:, 1].view(np.float32)


@st.composite
def logits_and_used(draw: st.DrawFn) -> tuple[F32Array, int]:
    tokens, experts = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    # Few different values, so that many are equal.
    values = st.sampled_from([-np.inf, -3.5, -1.0, -0.0, 0.0, 1e-30, 0.25, 1.0, 2.5, 80.0])
    rows = draw(st.lists(values, min_size=tokens * experts, max_size=tokens * experts))
    logits = np.array(rows, np.float32).reshape(tokens, experts)
    finite = int(np.isfinite(logits).sum(axis=1).min())
    return logits, draw(st.integers(1, max(1, min(experts, finite))))


@settings(deadline=None)
@given(logits_and_used(), st.integers(1, 3))
def test_a_token_chooses_its_largest_logits(case: tuple[F32Array, int], threads: int) -> None:
    logits, used = case
    if not np.isfinite(logits).any(axis=1).all():
        return
    chosen, weights = routed(logits, used, threads)
    # Zeros of both signs are apart in the order of their bits.
    order = logits + np.where(np.signbit(logits) & (logits == 0), -1e-38, 0)
    for row, experts, found in zip(order, chosen, weights, strict=True):
        wanted = np.sort(np.argsort(-row, kind="stable")[:used])
        assert experts.tolist() == wanted.tolist()
        exact = np.exp(row[wanted].astype(np.float64) - row.max())
        np.testing.assert_allclose(found, exact / exact.sum(), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_what_is_no_number_is_chosen_and_shows(bad: float, place: int) -> None:
    logits = np.linspace(-1, 1, 12, dtype=np.float32)[None].copy()
    logits[0, place] = bad
    chosen, weights = routed(logits, 3)
    assert place in chosen[0]
    assert np.isnan(weights).any()
    chosen, weights = routed(np.full((1, 12), bad, np.float32), 3)
    assert chosen[0].tolist() == [0, 1, 2]
    assert np.isnan(weights).all()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 4), st.sampled_from([1, 4, 8]),
       st.integers(0, 9), st.integers(0, 2**32 - 1))  # fmt: skip
def test_a_plan_has_every_choice_once(
    tokens: int, experts: int, used: int, width: int, few: int, seed: int
) -> None:
    used = min(used, experts)
    rng = np.random.default_rng(seed)
    choices = np.zeros((tokens, 2, used), np.int32)
    for row in choices:
        row[0] = np.sort(rng.choice(experts, used, replace=False))
        row[1] = rng.random(used, np.float32).view(np.int32)
    tiles = moe.most_tiles(tokens, experts, used, width)
    room = np.full(moe.plan_bytes(tiles * width, experts) // 4 + 1, -7, np.int32)
    nexts = np.zeros(experts, np.int32)
    run(
        moe.plan, tokens, choices=choices.ctypes.data, stride=8 * used, used=used,
        nexts=nexts.ctypes.data, plan=room.ctypes.data, experts=experts, width=width, few=few,
    )  # fmt: skip
    assert room[-1] == -7
    starts, counts = room[: experts + 1], room[experts + 1 : 2 * experts + 1]
    entries = room[2 * experts + 2 : -1].reshape(-1, 2)
    assert counts.tolist() == [(choices[:, 0] == e).sum() for e in range(experts)]
    assert (np.diff(starts) == -(-counts // width)).all()
    assert starts[0] == 0
    assert starts[-1] <= tiles
    assert room[2 * experts + 1] == ((counts > 0) & (counts <= few)).sum()
    for e in range(experts):
        mine = entries[starts[e] * width :][: counts[e]]
        where = [(t, k) for t in range(tokens) for k in range(used) if choices[t, 0, k] == e]
        assert mine.tolist() == [[t, choices[t, 1, k]] for t, k in where]


# -- what is read ---------------------------------------------------------------------------------


def test_only_chosen_experts_are_read(tmp_path: Path) -> None:
    path = PAGES.write_gguf(tmp_path / "pages.gguf")
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.guarded_experts", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}
    used, experts = PAGES.config["num_experts_per_tok"], PAGES.config["num_experts"]
    assert found["one"] == used
    assert used < found["few"] <= 3 * used
    assert used < found["many"] < experts / 2


def test_a_decoded_token_reads_its_share(quantized: Path) -> None:
    with ggq.load(quantized, n_threads=1) as model:
        work = model.session(16).work(1)
        stacks = [t for name, t in model.tensors.items() if "_exps" in name]
    nbytes = sum(each.bytes_read(1, 1) for each in work if each.kernel.startswith("moe."))
    assert nbytes == sum(stack.nbytes for stack in stacks) // 4  # 2 of 8
    ops = sum(each.operations(3, 3) for each in work if each.kernel.startswith("moe."))
    assert ops == 3 * 2 * sum(stack.n_weights for stack in stacks) // 4


# -- results --------------------------------------------------------------------------------------


def test_results_do_not_depend_on_threads(quantized: Path) -> None:
    tokens = WIDE.prompt(60)
    rows: list[list[F32Array]] = []
    for threads in (1, 2, 3, 4):
        with ggq.load(quantized, n_threads=threads) as model:
            session = model.session(64)
            found = [session.score(tokens)]
            for step in (1, 3, 8, 20, 60):
                session.rewind(0)
                parts = [tokens[i : i + step] for i in range(0, 60, step)]
                found.append(np.stack([session.prefill(part) for part in parts]))
        rows.append(found)
    for other in rows[1:]:
        for one, more in zip(rows[0], other, strict=True):
            assert np.array_equal(one, more)


def test_no_operation_leaves_its_buffers(quantized: Path) -> None:
    run_guarded(quantized, "rounded")


def log_softmax(logits: F32Array) -> npt.NDArray[np.float64]:
    x = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def llama_cpps(
    path: Path, tokens: Sequence[int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """(bool[T], f64[known, V]): llama.cpp's log-probabilities behind the tokens, where known.

    The server tells none behind a byte that begins a character of several, nor at the end.
    """
    known, rows = np.zeros(len(tokens), bool), []
    with LlamaServer(path) as server:
        for end in range(1, len(tokens) + 1):
            with suppress(KeyError):
                ids, logs = server.top_log_probabilities(tokens[:end], VOCAB_SIZE, end)
                rows.append(logs[0][np.argsort(ids[0])])
                known[end - 1] = True
    assert known.mean() > 0.6
    return known, np.array(rows)


def test_logits_are_llama_cpps(tmp_path: Path) -> None:
    path, tokens = TINY_MOE.write_gguf(tmp_path / "model.gguf"), TINY_MOE.prompt(48)
    with ggq.load(path, n_threads=1) as model:
        scored = model.logits(tokens)
    known, theirs = llama_cpps(path, tokens)
    ours = log_softmax(scored)[known]
    # Both round keys and values to half precision, and llama.cpp the sums of attention too.
    assert np.abs(ours - theirs).max() < 3e-3 * np.ptp(scored)
    assert (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean() < 1e-5
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()


def test_quantized_logits_are_as_near_to_llama_cpps_as_rounding_allows(quantized: Path) -> None:
    """A rounded activation can change the choice of an expert, and with it much."""
    tokens = WIDE.prompt(48)
    with ggq.load(quantized, n_threads=1) as model:
        scored = model.logits(tokens)
    with ggq.load(quantized, n_threads=1, exact=True) as model:
        exact = log_softmax(model.logits(tokens))
    known, theirs = llama_cpps(quantized, tokens)
    ours = log_softmax(scored)[known]
    apart = {
        name: float((np.exp(theirs) * (theirs - other)).sum(axis=1).mean())
        for name, other in (("ggq", ours), ("exact", exact[known]))
    }
    same = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    print(apart, same)
    assert apart["ggq"] < 1.5 * apart["exact"]
    assert same >= 0.85
