"""Profiles: every thread notes every step, and the report adds up to the time of the runs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError
from ggq.runtime import profile as module
from ggq.runtime.graph import Phase
from ggq.runtime.kernels._op import N_TOKENS, POSITION, STATE_WORDS, TOKENS
from ggq.runtime.model import Model
from ggq.runtime.profile import WAKING
from ggq.runtime.threads import Team
from ggq.runtime.work import BARRIER, EVERYWHERE, attended, layer_of
from tests.models import TINY

ROOT = Path(__file__).resolve().parent.parent
LLAMA = TINY["llama"]
LAYERS = int(LLAMA.config["num_hidden_layers"])
TEXT = LLAMA.prompt(20)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LLAMA.write_gguf(tmp_path_factory.mktemp("profile") / "llama.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, n_threads=2) as model:
        yield model


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_thread_notes_every_step(threads: int, path: Path) -> None:
    with ggq.load(path, n_threads=threads) as model:
        session = model.session(32)  # owns the cache the program writes to
        program, _ = session.program(Phase.DECODE)
        stamps = np.zeros((threads, len(program.operations) + 2), np.int64)
        around = np.full((threads + 2, stamps.shape[1]), -1, np.int64)
        token, state = np.array([5], np.int32), np.zeros(STATE_WORDS, np.int64)
        state[[N_TOKENS, POSITION, TOKENS]] = 1, 0, token.ctypes.data
        team = Team(threads)
        team.run(program, state)
        team.run(program, state, around[1:-1])
        team.close()
    assert (around[[0, -1]] == -1).all()
    assert (np.diff(around[1:-1], axis=1) >= 0).all()
    assert (around[1:-1, -1] > around[1:-1, 0]).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_times_add_up_to_the_runs(threads: int, path: Path) -> None:
    with ggq.load(path, n_threads=threads) as model:
        session = model.session(64)
        start = time.perf_counter()
        with session.profile() as profile:
            session.prefill(TEXT)
            for token in TEXT:
                session.decode(token)
        wall = time.perf_counter() - start
    assert list(profile.phases) == ["prefill", "decode"]
    total = 0.0
    for phase in profile.phases.values():
        kernels, waking = phase.kernels()[:-1], phase.kernels()[-1]
        assert waking.name == WAKING
        assert kernels[-1].name == BARRIER
        assert phase.seconds == pytest.approx(sum(e.seconds for e in (*kernels, waking)))
        assert sum(e.seconds for e in kernels) == pytest.approx(
            sum(e.seconds for e in phase.layers())
        )
        assert sum(phase.barrier_seconds()) / threads == pytest.approx(kernels[-1].seconds)
        total += phase.seconds
    assert 0 < total < 1.1 * wall
    prefill, decode = profile.phases.values()
    assert (prefill.runs, prefill.tokens, prefill.threads) == (1, 20, threads)
    assert (decode.runs, decode.tokens, decode.threads) == (20, 20, threads)


def test_steps_are_of_their_layers_and_weights(model: Model) -> None:
    session = model.session(64)
    with session.profile() as profile:
        session.prefill(TEXT)
        session.decode(1)
    matrices = {n: t for n, t in model.tensors.items() if len(t.shape) == 2}
    used = {n: t for n, t in matrices.items() if n != "token_embd.weight" or "output.weight" not in
            matrices}  # fmt: skip
    prefill, decode = profile.phases.values()
    for phase, tokens in ((prefill, 20), (decode, 1)):
        kernels = {line.name: line for line in phase.kernels()}
        many = [e for name, e in kernels.items() if name.startswith(("matvec.", "matmat."))]
        assert sum(e.calls for e in many) == len(used)
        assert sum(e.nbytes for e in many) == sum(t.nbytes for t in used.values())
        in_layers = [t for n, t in used.items() if layer_of(n) is not None]
        outside = [t for n, t in used.items() if layer_of(n) is None]
        wanted = 2 * sum(t.nbytes // 4 for t in in_layers) * tokens
        wanted += 2 * sum(t.nbytes // 4 for t in outside)
        assert sum(e.operations for e in many) == wanted
        assert [e.name for e in phase.layers()] == ["-1", *map(str, range(LAYERS))]
        for line in phase.layers()[1:]:
            here = sum(t.nbytes for n, t in used.items() if n.startswith(f"blk.{line.name}."))
            assert line.nbytes > here  # the cache is read, too
    pairs = {"prefill": 20 * 21 // 2, "decode": 21}
    for name, phase in profile.phases.items():
        line = next(e for e in phase.kernels() if e.name.startswith("attend."))
        per_pair = 4 * model.hparams.n_head * model.hparams.head_dim
        assert line.operations == LAYERS * per_pair * pairs[name]
    attend = next(e for e in decode.kernels() if e.name.startswith("attend."))
    heads, dims = model.hparams.n_head_kv, model.hparams.head_dim
    assert attend.nbytes == LAYERS * 21 * heads * dims * 2 * 2


@pytest.mark.parametrize("window", [1, 3, 7, EVERYWHERE])
def test_positions_attended_to(window: int) -> None:
    for tokens, positions in ((1, 1), (1, 5), (4, 4), (3, 9), (9, 9)):
        seen = [min(p + 1, window) for p in range(positions - tokens, positions)]
        assert attended(tokens, positions, window) == sum(seen)


def test_profiling_changes_no_result_and_ends(model: Model) -> None:
    plain, measured = model.session(64), model.session(64)
    with measured.profile() as profile:
        first = measured.prefill(TEXT)
        assert str(profile).startswith("profile of prefill: 20 tokens in 1 run, ")
    assert np.array_equal(first, plain.prefill(TEXT))
    report = str(profile)
    measured.decode(3)
    assert str(profile) == report


def test_a_processor_without_a_counter(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.execute, "read_cycles", lambda out: None)
    with pytest.raises(GGQError, match="no cycle counter"), model.session(8).profile():
        pass


def test_the_tool_tells_on_stderr(path: Path) -> None:
    code = "import sys; from ggq.runtime.cli import main; sys.exit(main())"
    args = [str(path), "-p", "Hello", "-n", "8", "-no-cnv", "--temp", "0", "--ignore-eos"]
    plain, told = (
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *args, *more],
            capture_output=True, text=True, cwd=ROOT, env=os.environ, timeout=120, check=True,
        )
        for more in ([], ["--profile"])
    )  # fmt: skip
    assert told.stdout == plain.stdout
    assert "profile of" not in plain.stderr
    lines = told.stderr.splitlines()
    for name, tokens in (("few 4", 4), ("decode", 7)):
        at = next(k for k, e in enumerate(lines) if e.startswith(f"profile of {name}: "))
        assert f" {tokens} tokens in " in lines[at]
        assert lines[at + 1].split() == ["kernel", "calls", "ms", "%", "GB/s", "GOPS"]
        rows = itertools.takewhile(lambda e: not e.startswith("waiting"), lines[at + 2 :])
        shares = [float(row.split()[3]) for row in rows]
        assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares) + 0.01)
    assert "waiting at barriers: thread 0 " in told.stderr
