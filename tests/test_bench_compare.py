"""tests/bench/compare.py: rounds stay beside each other, and the table tells their medians."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq import blocks
from tests.bench import compare, files, results
from tests.bench.rows import IK, LLAMA, OPENVINO, ROWS, Case

FAKE = """#!{python}
import json, sys
counter = {counter!r}
speeds = {speeds!r}
done = sum(1 for _ in open(counter))
print("x", file=open(counter, "a"))
speed = speeds[done % len(speeds)]
if speed is None:
    sys.exit("out of order")
told = {{"avg_ts": speed, "build_commit": "abc", "build_number": 7, "of_limit": 0.5,
        "cpu_info": "Some CPU", "cpu_form": "generic", "arguments": sys.argv[1:]}}
print(json.dumps([told]))
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results' folder of this test, and model files that are none."""
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    monkeypatch.setattr(files, "file", lambda name, tools: model)
    return tmp_path / "results"


def program(folder: Path, name: str, speeds: list[float | None]) -> Path:
    counter = folder / f"{name}.runs"
    counter.touch()
    path = folder / name
    path.write_text(FAKE.format(python=sys.executable, counter=str(counter), speeds=speeds))
    path.chmod(0o755)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, args)])
    compare.main()


def record(kept: Path, row: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((kept / "results.json").read_text())[row]
    return found


def test_rounds_are_kept_and_added_to(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = program(tmp_path, "ggq-bench", [100.0, 50.0, 60.0])
    llama = program(tmp_path, "llama-bench", [50.0, None, 20.0])
    flags = ["--ggq-bench", ours, "--llama-bench", llama, "--only", "tg128", "1b-q4_0"]
    run(monkeypatch, *flags, "--rounds", 2)
    case = record(kept, "1b-q4_0")["cases"]["tg128"]
    assert case == {"ggq": [100.0, 50.0], "of_limit": [0.5, 0.5], LLAMA: [50.0, None]}
    run(monkeypatch, *flags, "--rounds", 1, "--add")
    found = record(kept, "1b-q4_0")
    case = found["cases"]["tg128"]
    assert case["ggq"] == [100.0, 50.0, 60.0]
    assert results.ratios(case, LLAMA) == [2.0, 3.0]
    assert found["machine"].startswith("Some CPU, generic, ")
    assert found["versions"][LLAMA] == "abc (7)"
    (line,) = [e for e in (kept / "results.md").read_text().splitlines() if "| tg128 |" in e]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[:8] == ["1b-q4_0", "tg128", "60.0", "50", LLAMA, "35.0", "2.50 (2.00 to 3.00)",
                         "1 met"]  # fmt: skip
    run(monkeypatch, *flags, "--rounds", 1)
    assert record(kept, "1b-q4_0")["cases"]["tg128"]["ggq"] == [100.0]


def test_a_peer_that_comes_late_stays_beside_its_rounds(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = program(tmp_path, "ggq-bench", [10.0, 20.0])
    late = program(tmp_path, "late", [5.0])
    flags = ["--ggq-bench", ours, "--only", "pp512", "--rounds", 1, "1b-q4_k_m"]
    run(monkeypatch, *flags)
    run(monkeypatch, *flags, "--add", "--ik-llama-bench", late)
    case = record(kept, "1b-q4_k_m")["cases"]["pp512"]
    assert case[IK] == [None, 5.0]
    assert results.ratios(case, IK) == [4.0]


def test_what_programs_are_asked(tmp_path: Path) -> None:
    ours = program(tmp_path, "bench", [1.0])
    settings = compare.Settings(3, 2, False)
    deep = Case(n_gen=16, n_depth=4000)
    asked = compare.ggq_bench(ours, Path("m.gguf"), deep, settings).told["arguments"]
    common = ["-p", "0", "-n", "16", "-d", "4000", "-t", "3", "-r", "2", "-o", "json"]
    assert asked == ["m.gguf", *common, "--no-warmup"]
    theirs = compare.measure(LLAMA, ours, Path("m.gguf"), deep, settings, ("-fa", "1"))
    assert theirs.told["arguments"] == ["-m", "m.gguf", *common, "-fa", "1", "--no-warmup"]
    with pytest.raises(compare.NotMeasuredError, match="at depth"):
        compare.measure(OPENVINO, ours, Path("m.gguf"), deep, settings, ())


def test_rows_are_of_files_that_can_be_made() -> None:
    names = {row.file for row in ROWS.values()}
    names |= {peer.file for row in ROWS.values() for peer in row.peers if peer.file}
    for name in names:
        kind = name.rpartition("-")[2]
        assert files.is_random(name) or name.startswith(("smollm2-", "gemma-"))
        if files.is_random(name):
            files.random_model.wanted(kind.upper(), False)
    types = {t.name.lower() for t in blocks.all_types()}
    whole = {"q8_1", "q8_k", "i8", "i16", "i32", "i64", "f64"}
    assert {f"1b-{t}" for t in types - whole} <= set(ROWS)


def test_the_table_kept_is_that_of_the_results_kept() -> None:
    path = results.FOLDER / "results.md"
    if path.exists():  # nothing was measured yet
        assert path.read_text(encoding="utf-8") == results.table(results.load())
