"""ggq-bench: llama-bench's flags, fields and order; what a case counts as read and computed."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import sqlite3
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggq
from ggq.jit import cpu
from ggq.jit.isa import target
from ggq.runtime.bench import cli, roofline
from ggq.runtime.bench.cases import Case, numbers, pair
from ggq.runtime.bench.measure import amounts, deviation, runs
from ggq.runtime.bench.report import FORMATS
from ggq.runtime.bench.roofline import measured
from ggq.runtime.kernels import roofline as kernels
from tests.models import TINY

ROOT = Path(__file__).resolve().parent.parent
LLAMA = TINY["llama"]
# llama.cpp tools/llama-bench/llama-bench.cpp, without those that mean nothing here
FIELDS: dict[str, type] = {
    "build_commit": str, "build_number": int, "cpu_info": str, "gpu_info": str, "backends": str,
    "model_filename": str, "model_type": str, "model_size": int, "model_n_params": int,
    "n_batch": int, "n_ubatch": int, "n_threads": int, "type_k": str, "type_v": str,
    "n_prompt": int, "n_gen": int, "n_depth": int, "test_time": str, "avg_ns": int,
    "stddev_ns": int, "avg_ts": float, "stddev_ts": float, "samples_ns": list, "samples_ts": list,
}  # fmt: skip
OWN = {
    "exact", "cpu_form", "read_gbs", "gops", "limit_ts", "of_limit", "limit_read_gbs",
    "limit_dot_gops", "limit_short_gops", "limit_fma_gops",
}  # fmt: skip
QUICK = ["-p", "5", "-n", "3", "-r", "2", "-t", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LLAMA.write_gguf(tmp_path_factory.mktemp("bench") / "llama.gguf")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits do not matter here."""
    monkeypatch.setattr(roofline, "STREAMED", 1 << 20)
    monkeypatch.setattr(roofline, "_ROUNDS", 100)


def output(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert cli.main([str(a) for a in args]) == 0
    out, err = capsys.readouterr()
    assert "error" not in err
    return out


def rows(capsys: pytest.CaptureFixture[str], *args: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output(capsys, *args, "-o", "json"))
    return found


def test_fields_are_llama_benchs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, model, *QUICK)
    assert [(r["n_prompt"], r["n_gen"]) for r in found] == [(5, 0), (0, 3)]
    with ggq.open(model) as file:
        size = sum(t.nbytes for t in file.tensors.values())
    for r in found:
        assert r.keys() == FIELDS.keys() | OWN
        assert {name: type(r[name]) for name in FIELDS} == FIELDS
        assert r["model_filename"] == str(model)
        assert (r["model_size"], r["model_n_params"]) == (size, size // 4)
        assert r["model_type"].split()[::2] == ["llama", "F32"]
        assert (r["n_batch"], r["n_ubatch"], r["n_depth"], r["n_threads"]) == (2048, 512, 0, 1)
        datetime.strptime(r["test_time"], "%Y-%m-%dT%H:%M:%SZ")
        tokens = r["n_prompt"] + r["n_gen"]
        assert r["samples_ts"] == [pytest.approx(1e9 * tokens / ns) for ns in r["samples_ns"]]
        assert r["avg_ts"] == pytest.approx(statistics.fmean(r["samples_ts"]), rel=1e-6)
        assert r["stddev_ts"] == pytest.approx(statistics.stdev(r["samples_ts"]), abs=1e-5)
        assert r["avg_ns"] == pytest.approx(statistics.fmean(r["samples_ns"]), abs=1)
        least = tokens / r["limit_ts"]
        assert r["of_limit"] == pytest.approx(1e9 * least / r["avg_ns"], rel=0.01, abs=1e-3)
        assert min(r["gops"], r["read_gbs"], r["limit_read_gbs"], r["limit_fma_gops"]) > 0


def test_every_combination_in_llama_benchs_order(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["-p", "4,6", "-n", "1-2", "-pg", "3,2", "-d", "0,7", "-b", "4,2048", "-t", "1", "-t",
            "2", "-r", "1", "--no-roofline", "--no-warmup"]  # fmt: skip
    found = rows(capsys, model, *args)
    names = ("n_batch", "n_threads", "n_depth", "n_prompt", "n_gen")
    wanted = [
        (batch, threads, depth, *tests)
        for batch in (4, 2048)
        for threads in (1, 2)
        for depth in (0, 7)
        for tests in ((4, 0), (6, 0), (0, 1), (0, 2), (3, 2))
    ]
    assert [tuple(r[name] for name in names) for r in found] == wanted
    assert all(len(r["samples_ns"]) == 1 and r["stddev_ts"] == 0 for r in found)
    assert {(r["limit_ts"], r["of_limit"], r["limit_read_gbs"]) for r in found} == {(None,) * 3}


def test_forms_say_the_same(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = {form: output(capsys, model, *QUICK, "-m", model, "-o", form) for form in FORMATS}
    as_json = json.loads(text["json"])
    assert len(as_json) == 4
    plain = [name for name in as_json[0] if not name.startswith("samples")]
    assert [json.loads(line).keys() for line in text["jsonl"].splitlines()] == [
        row.keys() for row in as_json
    ]
    in_csv = list(csv.DictReader(io.StringIO(text["csv"])))
    assert [list(row) for row in in_csv] == [plain] * 4
    assert [row["n_prompt"] for row in in_csv] == ["5", "0", "5", "0"]
    with sqlite3.connect(":memory:") as database:
        database.executescript(text["sql"])
        chosen = database.execute("SELECT n_prompt, n_gen, model_filename FROM llama_bench")
        assert chosen.fetchall() == [(5, 0, str(model)), (0, 3, str(model))] * 2
    database.close()
    for form in ("md", "table"):
        words = [line.replace("|", " ").split() for line in text[form].splitlines()]
        assert words[0][0] == "model"
        assert sum("pp5" in line for line in words) == sum("tg3" in line for line in words) == 2
        assert "limits with 1 threads: " in text[form]


def test_tables_show_settings_that_are_unusual(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (model, "-p", "4", "-n", "0", "-r", "1", "-t", "1", "--no-roofline")
    usual, unusual = output(capsys, *args), output(capsys, *args, "-b", "2,4", "--exact")
    assert not {"n_batch", "n_ubatch", "exact", "limit"} & set(usual.split())
    assert {"n_batch", "exact"} <= set(unusual.split())
    assert "n_ubatch" not in unusual


def test_the_machines_limits_alone(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "--roofline", "-t", "1,2")
    assert [r["n_threads"] for r in found] == [1, 2]
    assert all(r[name] > 0 for r in found for name in r if name.startswith("limit_"))
    for form in FORMATS:
        assert cpu.form() in output(capsys, "--roofline", "-t", "1", "-o", form)


def test_stdout_is_for_programs(model: Path) -> None:
    code = "import sys; from ggq.runtime.bench.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", code, str(model), *QUICK, "--no-roofline"]
    done = subprocess.run(
        [*command, "--progress", "--profile", "-o", "jsonl"],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=True,
    )  # fmt: skip
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("ggq-bench: benchmark ")]
    assert "ggq-bench: benchmark 2/2: run 2/2" in told
    assert len(told) == 2 * (1 + 1 + 2)
    assert "pp5: profile of few 8: 5 tokens in 1 run" in done.stderr
    assert "tg3: profile of decode: 3 tokens in 3 runs" in done.stderr


@pytest.mark.parametrize(
    "args, code, message",
    [
        ([], 2, "no model"),
        (["gone.gguf"], 4, "gone.gguf"),
        (["{broken}"], 3, "GGUF"),
        (["{model}", "-p", "many"], 2, "'many' is no number"),
        (["{model}", "-p", "1-0*1"], 2, "never reaches its end"),
        (["{model}", "-pg", "5"], 2, "PROMPT,ANSWER"),
        (["{model}", "-t", "0"], 2, "0 is not possible"),
        (["{model}", "-ub", "1024"], 2, "-ub 1024"),
        (["{model}", "-r", "0"], 2, "at least 1"),
        (["{model}", "-o", "xml"], 2, "xml"),
        (["{model}", "--delay", "-1"], 2, "delay"),
        (["{model}", "--roofline", "--no-roofline"], 2, "not allowed"),
    ],
)
def test_errors(
    args: list[str], code: int, message: str, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    filled = [each.format(model=model, broken=broken) for each in args]
    try:
        found: object = cli.main(filled)
    except SystemExit as refused:
        found = refused.code
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert err.startswith("ggq-bench: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_lists_of_numbers() -> None:
    assert numbers("512") == [512]
    assert numbers("1,2, 4") == [1, 2, 4]
    assert numbers("1-4") == [1, 2, 3, 4]
    assert numbers("64-256+64") == [64, 128, 192, 256]
    assert numbers("1-20*2,7") == [1, 2, 4, 8, 16, 7]
    assert pair("512,128") == (512, 128)
    for wrong in ("", "x", "-1", "1.5", "1-", "1-4*1", "0-4*2", "1-4+0", "9" * 10):
        with pytest.raises(argparse.ArgumentTypeError):
            numbers(wrong)


def test_deviation_is_of_a_sample() -> None:
    assert deviation([3.0]) == 0
    assert deviation([1.0, 3.0]) == pytest.approx(2**0.5)


LENGTH = st.integers(0, 2000)
CASES = st.builds(
    Case, st.just("m"), LENGTH, LENGTH, LENGTH, st.integers(1, 4096), st.integers(1, 512)
)


@given(CASES)
def test_runs_of_a_case_are_its_tokens(case: Case) -> None:
    each = list(runs(case))
    assert sum(n for n, _ in each) == case.n_prompt + case.n_gen
    assert all(1 <= n <= case.step for n, _ in each)
    ends = [case.n_depth, *(end for _, end in each)]
    assert [b - a for a, b in itertools.pairwise(ends)] == [n for n, _ in each]


def test_an_answer_reads_all_weights_for_each_token(model: Path) -> None:
    with ggq.load(model, n_threads=1) as loaded:
        session, h = loaded.session(64), loaded.hparams
        first, second = amounts(session, Case("m", 0, 2, 10))
        matrices = {n: t for n, t in loaded.tensors.items() if len(t.shape) > 1}
    if "output.weight" in matrices:
        del matrices["token_embd.weight"]
    weights = sum(t.nbytes for t in matrices.values())
    position = h.n_layer * 2 * h.n_head_kv * h.head_dim * 2
    assert first.nbytes == weights + 11 * position
    assert second.nbytes - first.nbytes == position
    assert first.byte_ops == 0
    pair_ops = 4 * h.n_layer * h.n_head * h.head_dim
    assert first.single_ops == 2 * weights // 4 + 11 * pair_ops


def test_reading_touches_every_byte_and_products_are_right() -> None:
    """The results of the kernels behind the limits, which nothing else looks at."""
    rng = np.random.default_rng(3)
    with measured(2, 1 << 16) as limits:
        limits._memory[:] = rng.integers(0, 256, len(limits._memory))
        limits._best(limits._stream)
        sums = limits._out.view(np.int32)[:: 64 // 4]
        total = limits._memory.view(np.int32).sum(dtype=np.int64)
        assert (sums.sum(dtype=np.int64) - total) % 2**32 == 0
        _, data, _ = roofline._factors()[0]
        used, count = (kernels.WEIGHTS + kernels.SUMS) * target().nbytes, 50
        for op, number in (
            (kernels.dots(False), "i1"), (kernels.dots(True), "i1"), (kernels.pairs(), "<i2")
        ):  # fmt: skip
            vectors = data[:used].view(number).reshape(kernels.WEIGHTS + kernels.SUMS, -1)
            weights, others = np.split(vectors.astype(int), [kernels.WEIGHTS])
            wanted = (weights[np.arange(count) % kernels.WEIGHTS] @ others.T).sum()
            program = limits._program(
                op, count=count, data=data.ctypes.data, out=limits._out.ctypes.data
            )
            limits._best(program)
            assert ((sums - wanted) % 2**32).tolist() == [0, 0]


def test_of_experts_only_those_used_count(tmp_path: Path) -> None:
    path = TINY["qwen3moe"].write_gguf(tmp_path / "moe.gguf")
    with ggq.load(path, n_threads=1) as loaded:
        session, h = loaded.session(64), loaded.hparams
        (answer,) = amounts(session, Case("m", 0, 1))
        (prompt,) = amounts(session, Case("m", 40, 0))
        with session.profile() as profile:
            session.decode(1)
        tensors = dict(loaded.tensors)
    used, experts = h.n_expert_used, h.n_expert  # type: ignore[attr-defined]
    stacks = sum(t.nbytes for t in tensors.values() if len(t.shape) == 3)
    plain = sum(t.nbytes for t in tensors.values() if len(t.shape) == 2)
    if "output.weight" in tensors:
        plain -= tensors["token_embd.weight"].nbytes
    assert 0 < used < experts
    position = h.n_layer * 2 * h.n_head_kv * h.head_dim * 2
    wanted = plain + stacks * used // experts + position
    assert answer.nbytes == wanted
    assert sum(line.nbytes for line in profile.phases["decode"].kernels()) == wanted
    weights = (plain + stacks * used // experts) // 4
    assert answer.single_ops == 2 * weights + 4 * h.n_layer * h.n_head * h.head_dim
    assert plain < prompt.nbytes - 40 * position <= plain + stacks
