"""The first run: what a model needs is compiled at once and told; --warm-up compiles ahead."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ggq
from ggq import jit
from ggq.runtime import cli, warm_up
from ggq.runtime.graph import Phase
from ggq.runtime.progress import CompileProgress
from tests.models import TINY
from tests.tree_copy import ROOT, run_in

LOAD = """
import sys, ggq
with ggq.load(sys.argv[1]) as model:
    session = model.session(64)
    session.prefill(list(range(20)))
    session.decode(3)
    session.score([4, 5])
    session.score(list(range(20)))
print(sorted({"numba", "tqdm"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY["llama"].write_gguf(tmp_path_factory.mktemp("warm") / "model.gguf")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nobody is told of compilations afterwards."""
    yield
    jit.watch(lambda done, total: None)


def test_all_that_prompts_and_answers_need_is_compiled_at_once(path: Path, tmp_path: Path) -> None:
    code = """
import sys, ggq
from ggq import jit
batches = []
jit.watch(lambda done, total: batches.append((done, total)))
with ggq.load(sys.argv[1]) as model:
    session = model.session(64)
    batches.clear()
    session.prefill(list(range(20)))
    first = list(batches)
    session.decode(3)
print(len(batches) == len(first), first == [(n, len(first) - 1) for n in range(len(first))])
"""
    assert run_in(ROOT, code, str(path), GGQ_CACHE_DIR=str(tmp_path)) == "True True\n"


def test_after_warming_up_for_a_model_nothing_is_compiled(path: Path, tmp_path: Path) -> None:
    warm = "import sys; from ggq.runtime.cli import main; sys.exit(main())"
    run_in(ROOT, warm, str(path), "--warm-up", GGQ_CACHE_DIR=str(tmp_path))
    assert run_in(ROOT, LOAD, str(path), GGQ_CACHE_DIR=str(tmp_path)) == "[]\n"


@pytest.mark.parametrize("name", TINY)
def test_warming_up_for_all_covers_every_model(name: str, tmp_path: Path) -> None:
    everything = {kernel.symbol for kernel in warm_up.all_kernels()}
    with ggq.load(TINY[name].write_gguf(tmp_path / "model.gguf")) as model:
        session = model.session(64)
        graphs = [session._graph(phase, 8) for phase in Phase]
        needed = {kernel.symbol for graph in graphs for kernel in graph.kernels()}
    assert needed - everything == set()


def test_no_kernel_is_compiled_twice() -> None:
    symbols = [kernel.symbol for kernel in warm_up.all_kernels()]
    assert len(symbols) == len(set(symbols))


def test_warming_up_for_all(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], quiet: None
) -> None:
    few = list(warm_up.all_kernels())[:3]
    monkeypatch.setattr(warm_up, "all_kernels", lambda: iter(few))
    jit.prepare(few)
    monkeypatch.setattr(sys, "argv", ["ggq-run", "--warm-up"])
    assert cli.main() == 0
    assert "0 kernels were compiled" in capfd.readouterr().err


def test_a_share_of_the_work(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GGQ_CACHE_DIR", str(tmp_path))
    kernels = [jit.Kernel(f"test.share{n}", lambda x: None, 1) for n in range(5)]
    monkeypatch.setattr(warm_up, "all_kernels", lambda: iter(kernels))
    monkeypatch.setattr(sys, "argv", ["warm_up", "1", "2"])
    warm_up.main()
    assert capfd.readouterr().out == "test.share1\ntest.share3\n"
    assert jit.without_code(kernels) == kernels[::2]


def test_a_failed_share_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, command: list[str], stdout: int) -> None:
            pass

        def wait(self) -> int:
            return 1

    kernel = jit.Kernel("test.never_compiled", lambda x: None, 1)
    monkeypatch.setattr(warm_up, "all_kernels", lambda: iter([kernel]))
    monkeypatch.setattr(warm_up.subprocess, "Popen", Failing)
    with pytest.raises(ggq.errors.GGQError, match="could not be compiled"):
        warm_up.compile_everything("ggq-run")


def test_compiling_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    show = CompileProgress("ggq-run")
    for done in range(4):
        show(done, 3)
    show(0, 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("ggq-run: compiling kernels for this processor, once")


def test_a_terminal_sees_a_bar(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    show = CompileProgress("ggq-run")
    for done in range(4):
        show(done, 3)
    assert "3/3" in capfd.readouterr().err
