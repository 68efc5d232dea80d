"""Teams of threads: same results for every number, parked when idle, few cores, Ctrl-C, pace."""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.jit.lang import Value, i64, load, loop, store
from ggq.runtime import cores
from ggq.runtime.kernels._op import PRIVATE, STATE_WORDS, Op, Thread
from ggq.runtime.model import Model
from ggq.runtime.pace import LONGEST_PAUSE, WINDOW, Pace
from ggq.runtime.threads import Program, Team
from tests.models import TINY
from tests.tree_copy import ROOT, run_in

LLAMA = replace(TINY["llama"], config=TINY["llama"].config | {"num_hidden_layers": 4})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LLAMA.write_gguf(tmp_path_factory.mktemp("threads") / "model.gguf")


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with ggq.load(path, n_threads=2) as found:
        yield found


def logits(model: Model, counts: list[int]) -> np.ndarray:
    """Of a prompt and of tokens after it, each by so many threads."""
    tokens = LLAMA.prompt(40 + len(counts))
    session = model.session(128)
    rows = [session.prefill(tokens[:40])]
    for count, token in zip(counts, tokens[40:], strict=True):
        assert model._team is not None
        model._team._pace.count = count
        rows.append(session.decode(token))
    return np.stack(rows)


def test_the_number_of_threads_changes_nothing_even_from_token_to_token(path: Path) -> None:
    counts = [1, 2, 3, 4, 1, 4, 2, 2, 1, 1, 3, 4] * 4
    with ggq.load(path, n_threads=1) as alone, ggq.load(path, n_threads=4) as team:
        wanted = logits(alone, [1] * len(counts))
        assert np.array_equal(logits(team, counts), wanted)


def take(t: Thread, hits: Value, total: Value, taken: Value) -> None:
    """hits[i] += 1 by whoever's turn i is."""
    for begin, end in t.turns(total, 16, taken):
        for i in loop(begin, end):
            at = hits + i * 8
            store(at, load(i64, at, 8) + 1, 8)


@pytest.mark.parametrize("total", [1, 15, 16, 17, 500, 4096])
def test_every_turn_is_taken_once(total: int) -> None:
    """By any number of threads, one run after the other, on top of what each run left."""
    operation, hits = Op("tests.take", take), np.zeros(total, np.int64)
    description = np.array(operation.describe(hits=hits.ctypes.data, total=total, taken=PRIVATE))
    address = operation.kernel.address, description.ctypes.data
    program = Program(np.array([address], np.int64), 8, 4, [], [hits, description])
    state = np.zeros(STATE_WORDS, np.int64)
    team = Team(4)
    for runs in range(1, 401):
        team._run(program.operations, program, state, 0, 1 + runs % 4)
        assert (hits == runs).all()
    team.close()


def test_a_prompts_program_is_its_pieces() -> None:
    operations = np.arange(1, 201, dtype=np.int64).reshape(100, 2)
    operations[3::4] = 0
    program = Program(operations, 1, 1, [], [])
    assert np.array_equal(np.concatenate(program.pieces), operations)
    assert len(program.pieces) > 2
    assert all(not piece[-1].any() for piece in program.pieces[:-1])


def settle() -> float:
    """Processor time of a while in which nothing is asked for."""
    time.sleep(0.3)
    before = time.process_time()
    time.sleep(0.5)
    return time.process_time() - before


def test_idle_threads_use_no_processor_time(model: Model) -> None:
    session = model.session(64)
    session.prefill(LLAMA.prompt(20))
    session.decode(5)
    assert settle() < 0.1
    session.decode(6)
    assert settle() < 0.1


def test_ctrl_c_ends_a_long_prompt_between_its_pieces(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = LLAMA.prompt(200)
    session = model.session(256)
    wanted = model.session(256).prefill(tokens)
    team = model._team
    assert team is not None
    run, pieces = team._run, []

    def interrupted(*arguments: object) -> None:
        pieces.append(arguments)
        run(*arguments)  # type: ignore[arg-type]
        if len(pieces) == 2:
            _thread.interrupt_main()

    monkeypatch.setattr(team, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.prefill(tokens)
    assert len(pieces) == 2
    assert session.n_past == 0
    monkeypatch.undo()
    assert settle() < 0.1
    assert np.array_equal(session.prefill(tokens), wanted)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_more_threads_than_cores_get_done(path: Path) -> None:
    code = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import ggq
for n in (1, 2, 5):
    with ggq.load(sys.argv[1], n_threads=n) as model:
        session = model.session(128)
        session.prefill(list(range(60)))
        print([int(session.decode(token).argmax()) for token in range(40)])
with ggq.load(sys.argv[1]) as model:
    print(model.n_threads)
"""
    *results, threads = run_in(ROOT, code, str(path)).splitlines()
    assert len(results) == 3
    assert len(set(results)) == 1
    assert threads == "1"


# -- pace -----------------------------------------------------------------------------------------


def paced(pace: Pace, seconds: Callable[[int], float], kept_off: Callable[[int], float]) -> None:
    for _ in range(12 * (LONGEST_PAUSE + WINDOW)):
        pace.note(seconds(pace.count), kept_off(pace.count))


def test_an_undisturbed_team_stays_whole() -> None:
    pace = Pace(4)
    counts = set()
    for _ in range(1000):
        counts.add(pace.count)
        pace.note(1 / pace.count, 0.01)
    assert counts == {4}


def test_a_disturbed_team_gives_way_and_comes_back() -> None:
    pace = Pace(4)
    paced(pace, lambda n: 2 / n if n == 4 else 1 / n, lambda n: 0.5 * (n == 4))
    assert pace._settled == 3
    paced(pace, lambda n: 1 / n, lambda n: 0.0)
    assert pace._settled == pace.count == 4


def test_a_team_that_would_only_lose_stays() -> None:
    pace = Pace(2)
    paced(pace, lambda n: 1 / n, lambda n: 0.5)
    assert pace._settled == 2


# -- cores ----------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_physical_cores", lambda: 8)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "threads"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_quota_limits_the_threads(limit: str, threads: int, groups: Path) -> None:
    (groups / "cpu.max").write_text(limit + "\n")
    assert cores.usable_cores() == threads


def test_the_least_of_all_quotas_counts(groups: Path) -> None:
    own = groups / "outer" / "inner"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("600000 100000\n")
    (own.parent / "cpu.max").write_text("300000 100000\n")
    assert cores._limits(groups, "/outer/inner", cores._of_version_2) == [6.0, 3.0]
    assert cores._limits(groups, "/elsewhere", cores._of_version_2) == []


def test_quotas_of_the_older_kind(groups: Path) -> None:
    (groups / "cpu.cfs_quota_us").write_text("150000\n")
    (groups / "cpu.cfs_period_us").write_text("100000\n")
    assert cores._limits(groups, "/", cores._of_version_1) == [1.5]
    (groups / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores._limits(groups, "/", cores._of_version_1) == []


def test_no_thread_is_left_over(path: Path) -> None:
    with ggq.load(path, n_threads=3) as model:
        model.session(32).prefill([1, 2, 3])
    assert not [t for t in threading.enumerate() if t.name.startswith(("ggq-", "prefetch"))]
