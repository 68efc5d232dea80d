"""The comparisons kept in the repository: results/results.json, and results.md made from it.

python -m tests.bench.results
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tests.bench.rows import ROWS, Case, Peer, Row

FOLDER = Path(__file__).resolve().parent / "results"
Record = dict[str, Any]  # of a row: date, machine, versions, "cases": {case: {name: [figures]}}
GGQ, LIMIT = "ggq", "of_limit"


def load() -> dict[str, Record]:
    """Every row that was measured."""
    path = FOLDER / "results.json"
    found: dict[str, Record] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(records: dict[str, Record]) -> None:
    """Keep the rows, in the order of rows.py, and write the table anew."""
    FOLDER.mkdir(exist_ok=True)
    known = {key: records[key] for key in ROWS if key in records}
    (FOLDER / "results.json").write_text(json.dumps(known, indent=1) + "\n")
    (FOLDER / "results.md").write_text(table(known), encoding="utf-8")


def ratios(case: Record, peer: str) -> list[float]:
    """Ggq's speed by the peer's, of each round."""
    pairs = zip(case[GGQ], case.get(peer, []), strict=False)
    return [ours / theirs for ours, theirs in pairs if theirs]


def table(records: dict[str, Record]) -> str:
    """All rows as markdown."""
    lines = [
        "# Speed beside others",
        "",
        "Made by `python -m tests.bench.compare`, which runs ggq-bench and the others in turns.",
        "Tokens per second and ratios (ggq's by the other's of the same round) are medians of the",
        "rounds, with the smallest and largest ratio; % of limit: ggq's share of what the machine",
        "could read and multiply at the time (`ggq-bench --help`).",
        "",
    ]
    machines = list(dict.fromkeys(record["machine"] for record in records.values()))
    lines += [f"- {machine}" for machine in machines]
    versions = [f"{k} {v}" for r in records.values() for k, v in r["versions"].items()]
    lines += [f"- {version}" for version in dict.fromkeys(versions)] + [""]
    head = "file | test | ggq | % of limit | beside | its | ratio | goal | rounds | date"
    lines += [f"| {head} |", "|---|---|--:|--:|---|--:|---|--:|--:|---|"]
    for key, record in records.items():
        for case in ROWS[key].cases:
            if case.name in record["cases"]:
                lines += _lines(ROWS[key], record, case)
    return "\n".join(lines) + "\n"


def _lines(row: Row, record: Record, case: Case) -> list[str]:
    found = record["cases"][case.name]
    ours = statistics.median(found[GGQ])
    limits = [share for share in found[LIMIT] if share is not None]
    limit = f"{100 * statistics.median(limits):.0f}" if limits else ""
    first = f"{row.file} | {case.name} | {ours:.1f} | {limit}"
    lines = []
    for peer in row.peers:
        each = ratios(found, peer.name)
        if not each:
            continue
        theirs = statistics.median(t for t in found[peer.name] if t)
        ratio = statistics.median(each)
        spread = f"{ratio:.2f} ({min(each):.2f} to {max(each):.2f})"
        lines.append(
            f"| {first} | {peer.name} | {theirs:.1f} | {spread} | {_goal(row, peer, case, ratio)} "
            f"| {len(each)} | {record['date']} |"
        )
    return lines or [f"| {first} | | | | | {len(found[GGQ])} | {record['date']} |"]


def _goal(row: Row, peer: Peer, case: Case, ratio: float) -> str:
    goal = None if peer.file else row.goals.get((peer.engine, case.name))
    return "" if goal is None else f"{goal:g} {'met' if ratio >= goal else 'missed'}"


if __name__ == "__main__":
    save(load())
