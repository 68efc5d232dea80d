"""Speed beside other programs, in turns: python -m tests.bench.compare --llama-bench PATH [ROW...]

    python -m tests.bench.compare --list
    python -m tests.bench.compare --llama-bench build/bin/llama-bench 1b-q4_k_m
    python -m tests.bench.compare --llama-bench ... --rounds 1 --add --only pp512 8b-q4_k_m

Each round runs the installed ggq-bench and then every peer whose program was given, on the same
file; ratios are those of a round. Rows and their files are in rows.py and files.py; without ROW all
are run. Results are kept in results/. `--add` adds rounds to those kept, so that a long row can be
measured piece by piece.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import files, results
from tests.bench.peers import NotMeasuredError, Settings, ggq_bench, measure
from tests.bench.results import GGQ, LIMIT, Record
from tests.bench.rows import IK, LLAMA, OPENVINO, ROWS, TRANSFORMERS, WHEEL, Case, Peer, Row

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Measure the rows that were asked for and keep the results."""
    args = _arguments()
    if args.list:
        print(*ROWS, sep="\n")
        return
    programs = {
        LLAMA: args.llama_bench, IK: args.ik_llama_bench, OPENVINO: args.openvino,
        WHEEL: args.wheel, TRANSFORMERS: args.transformers,
    }  # fmt: skip
    programs = {engine: program for engine, program in programs.items() if program}
    for key in args.rows or ROWS:
        row = ROWS[key]
        if args.make:
            paths(row, args.ggq_bench.parent)
            continue
        measure_row(row, programs, args)
        if args.discard and files.is_random(row.file):
            files.file(row.file, args.ggq_bench.parent).unlink()


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    p.add_argument("--list", action="store_true", help="print the names of the rows")
    p.add_argument("--make", action="store_true", help="make the files of the rows, no more")
    installed = Path(sys.executable).parent / "ggq-bench"
    p.add_argument("--ggq-bench", type=Path, default=installed, help=f"default: {installed.name}")
    p.add_argument("--llama-bench", type=Path, help="of a native build of llama.cpp")
    p.add_argument("--ik-llama-bench", type=Path, help="of a native build of ik_llama.cpp")
    p.add_argument("--openvino", type=Path, metavar="PYTHON", help="one with openvino-genai")
    p.add_argument("--transformers", type=Path, metavar="PYTHON", help="one with transformers")
    p.add_argument("--wheel", type=Path, metavar="PYTHON", help="one with xllamacpp")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--add", action="store_true", help="add the rounds to those kept")
    p.add_argument("--only", metavar="CASE", help="pp512, tg128, ... alone")
    p.add_argument("--discard", action="store_true", help="delete random files behind their row")
    args = p.parse_args()
    unknown = [key for key in args.rows if key not in ROWS]
    if unknown:
        p.error(f"no row {unknown[0]}; see --list")
    return args


def paths(row: Row, tools: Path) -> dict[str, Path]:
    """Every file a row needs, by name."""
    names = {row.file, *(peer.file for peer in row.peers if peer.file)}
    if any(peer.engine == TRANSFORMERS for peer in row.peers):
        names.add("smollm2-hf")
    return {name: files.file(name, tools) for name in names}


def measure_row(row: Row, programs: dict[str, Path], args: argparse.Namespace) -> None:
    """All rounds of a row; what is measured is kept behind each."""
    where = paths(row, args.ggq_bench.parent)
    for path in where.values():
        files.read_once(path)
    cases = [case for case in row.cases if args.only in (None, case.name)]
    peers = [peer for peer in row.peers if peer.engine in programs]
    settings = Settings(args.threads, row.repetitions, row.repetitions > 1)
    record = _started(results.load().get(row.key), cases, peers, args.add)
    for _ in range(args.rounds):
        for case in cases:
            ours = ggq_bench(args.ggq_bench, where[row.file], case, settings)
            record["cases"][case.name][GGQ].append(round(ours.speed, 3))
            record["cases"][case.name][LIMIT].append(ours.told["of_limit"])
            record["versions"][GGQ] = f"{ours.version} {_commit()}".strip()
            record["machine"] = (
                f"{ours.told['cpu_info']}, {ours.told['cpu_form']}, {os.cpu_count()} cores, "
                f"{args.threads} threads"
            )
            print(f"{row.key:20} {case.name:14} ggq {ours.speed:9.2f}", end="", flush=True)
            for peer in peers:
                _measure_peer(peer, programs, where, row, case, settings, record)
            print(flush=True)
        record["date"] = time.strftime("%Y-%m-%d")
        results.save(results.load() | {row.key: record})
    for case in cases:
        for peer in peers:
            each = results.ratios(record["cases"][case.name], peer.name)
            if each:
                print(f"{row.key:20} {case.name:14} {statistics.median(each):6.2f} x {peer.name}")


def _measure_peer(
    peer: Peer, programs: dict[str, Path], where: dict[str, Path], row: Row, case: Case,
    settings: Settings, record: Record,
) -> None:  # fmt: skip
    name = peer.file or ("smollm2-hf" if peer.engine == TRANSFORMERS else row.file)
    figures = record["cases"][case.name].setdefault(peer.name, [])
    try:
        found = measure(peer.engine, programs[peer.engine], where[name], case, settings, peer.args)
    except NotMeasuredError as error:
        print(f"\n{error}", file=sys.stderr)
        figures.append(None)  # rounds of all stay beside each other
        return
    figures.append(round(found.speed, 3))
    record["versions"][peer.engine] = found.version
    print(f"  {peer.name} {found.speed:9.2f}", end="", flush=True)


def _started(kept: Record | None, cases: list[Case], peers: list[Peer], add: bool) -> Record:
    """The record to add to: what is kept of the cases that are not measured anew."""
    record: Record = kept or {"versions": {}, "cases": {}}
    for case in cases:
        if not add or case.name not in record["cases"]:
            record["cases"][case.name] = {GGQ: [], LIMIT: []}
        for peer in peers:
            # A peer that is new to rounds kept has none of them.
            have = record["cases"][case.name].setdefault(peer.name, [])
            have += [None] * (len(record["cases"][case.name][GGQ]) - len(have))
    return record


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
