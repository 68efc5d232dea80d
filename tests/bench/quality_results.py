"""The files that were measured, kept in results/quality.json; quality.md and plots made from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ggq.convert.pages.plots import Point, points
from ggq.convert.pages.svg import as_file

FOLDER = Path(__file__).resolve().parent / "results"
OURS = "ggq"
OPTIONS = "--effort normal"  # the default combination, however long it takes
HELD = f"{OPTIONS} --token-embedding-type q6_k"  # the largest tensor with the preset's type
NO_DATA = "--no-calib"
WHOLE = "all"  # the texts taken together
Record = dict[str, Any]
KEY = ("model", "seed", "band", "options", "chunks", "calibration_tokens")
KEPT = ("perplexity", "kld_mean", "kld_99_9", "same_top")
# Ratios to reach with OPTIONS: mean KLD, 99.9 % KLD; the mean where text is unlike calibration's.
GOALS = {
    "Q5_K_M": (0.65, 0.75), "Q4_K_M": (0.50, 0.65), "Q3_K_M": (0.38, 0.55), "Q2_K": (0.30, 0.45),
    "IQ2_XXS": (0.50, 0.65),
}  # fmt: skip
GOALS_UNLIKE = {"Q4_K_M": 0.55, "Q3_K_M": 0.45, "Q2_K": 0.40}
# Of other options: mean KLD only.
GOALS_OF = {HELD: {"Q4_K_M": 0.65, "Q3_K_M": 0.60, "Q2_K": 0.60}, NO_DATA: {"Q4_K_M": 0.85}}
UNLIKE = ("rust-book", "world-factbook")
HEAD = (
    "model | seed | band | options | text | tokens | llama.cpp KLD | ggq KLD | ratio | goal "
    "| 99.9 % ratio | goal | bytes ratio"
)


def load() -> list[Record]:
    """Every band that was measured."""
    path = FOLDER / "quality.json"
    found: list[Record] = json.loads(path.read_text()) if path.exists() else []
    return found


def keep(record: Record) -> None:
    """Add it, in place of an earlier one of the same band and settings."""
    save([*(one for one in load() if any(one[key] != record[key] for key in KEY)), record])


def save(records: list[Record]) -> None:
    """Write the records, their table, and a plot for each model and seed."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "quality.json").write_text(json.dumps(records, indent=1) + "\n")
    (FOLDER / "quality.md").write_text(table(records), encoding="utf-8")
    for model, seed in dict.fromkeys((one["model"], one["seed"]) for one in records):
        same = [one for one in records if (one["model"], one["seed"]) == (model, seed)]
        if plotted := plot(same):
            (FOLDER / f"quality-{model}-{seed}.svg").write_text(plotted, encoding="utf-8")


def figures_of(report: Record, names: list[str]) -> Record:
    """What is kept of a report of ggq-eval: no names of files, `names` say who made them."""
    files = {
        name: {key: file[key] for key in ("nbytes", "bits_per_weight")}
        for name, file in zip(names, report["files"], strict=True)
    }
    texts = []
    for text in report["texts"]:
        each = {
            name: {key: one["figures"][key] for key in KEPT}
            for name, one in zip(names, text["files"], strict=True)
        }
        base = text["files"][0]["figures"]["reference_perplexity"]
        texts.append({
            "text": text["domain"], "chunks": text["chunks"], "tokens": text["tokens"],
            "reference_perplexity": base, "files": each,
            "over_first": {
                name: one["ratios"]
                for name, one in zip(names[1:], text["against_first"], strict=True)
            },
        })  # fmt: skip
    return {"files": files, "texts": texts}


def table(records: list[Record]) -> str:
    """All of them as markdown."""
    lines = [
        "# Closeness to the full model",
        "",
        "Made by `python -m tests.bench.quality`: mean and 99.9 % KL divergence of ggq-convert's"
        " files",
        "by those of llama-quantize's (the better of its files), measured by ggq-eval on held-out"
        " text;",
        "intervals are 95 % of paired draws of the text. llama-perplexity's figures stand below.",
        "",
        f"| {HEAD} |",
        "|" + "---|" * len(HEAD.split("|")),
    ]
    for one in records:
        lines += [f"| {' | '.join(row)} |" for row in _rows(one)]
    natives = [line for one in records if (line := _native(one))]
    return "\n".join([*lines, "", *natives]) + "\n"


def _best(text: Record) -> str:
    """The better of the peer's files."""
    return min(
        (name for name in text["files"] if name != OURS),
        key=lambda name: float(text["files"][name]["kld_mean"]["value"]),
    )


def _ratio(text: Record, figure: str) -> float:
    ours, best = text["files"][OURS], text["files"][_best(text)]
    return float(ours[figure]["value"]) / float(best[figure]["value"])


def _rows(record: Record) -> list[list[str]]:
    rows = []
    for text in record["texts"]:
        best = _best(text)
        theirs, ours = text["files"][best], text["files"][OURS]
        mean, tail = _ratio(text, "kld_mean"), _ratio(text, "kld_99_9")
        sizes = record["files"][OURS]["nbytes"] / record["files"][best]["nbytes"]
        goals = _goals(record, text["text"])
        rows.append([
            record["model"], str(record["seed"]), record["band"], f"`{record['options']}`",
            text["text"], f"{text['tokens']:,}", f"{theirs['kld_mean']['value']:.4f}",
            f"{ours['kld_mean']['value']:.4f}", f"{mean:.3f}{_interval(text, best, 'kld_mean')}",
            _goal(mean, goals[0]), f"{tail:.3f}{_interval(text, best, 'kld_99_9')}",
            _goal(tail, goals[1]), f"{sizes:.4f}",
        ])  # fmt: skip
    return rows


def _interval(text: Record, best: str, figure: str) -> str:
    """Of our ratio; known where the better file is the first."""
    if best != next(iter(text["files"])):
        return ""
    ratio = text["over_first"][OURS][figure]
    return f" ({ratio['low']:.3f} to {ratio['high']:.3f})"


def _goals(record: Record, text: str) -> tuple[float | None, float | None]:
    options, band = record["options"], record["band"]
    if text == WHOLE:
        return None, None
    if options != OPTIONS:
        return GOALS_OF.get(options, {}).get(band), None
    mean, tail = GOALS[band]
    return GOALS_UNLIKE.get(band, mean) if text in UNLIKE else mean, tail


def _goal(ratio: float, goal: float | None) -> str:
    return "" if goal is None else f"{goal:.2f} {'met' if ratio <= goal else 'missed'}"


def _native(record: Record) -> str:
    """The same by llama-perplexity, as a line."""
    found = dict(record["native"])
    if not found:
        return ""
    where = f"{found.pop('chunks')} chunks of {found.pop('text')}"
    each = ", ".join(f"{name} {kld:.4f}" for name, kld in found.items())
    settings = f"{record['model']}, seed {record['seed']}, {record['band']}, `{record['options']}`"
    return f"- {settings}: llama-perplexity on {where}: mean KLD {each}"


def lines(record: Record) -> list[str]:
    """The rows of a band for a terminal."""
    found = [" ".join(row) for row in _rows(record)]
    if record["seconds"] is not None:
        found.append(f"converted in {record['seconds']:.0f} s")
    return [*found, *filter(None, [_native(record)])]


def plot(records: list[Record]) -> str | None:
    """Divergence on all texts against bits per weight, as an SVG file; of runs with OPTIONS."""
    theirs, ours = [], []
    for record in records:
        if record["options"] != OPTIONS:
            continue
        text = next(one for one in record["texts"] if one["text"] == WHOLE)
        for name, found in ((_best(text), theirs), (OURS, ours)):
            kld = text["files"][name]["kld_mean"]
            bits = record["files"][name]["bits_per_weight"]
            found.append(Point(bits, kld["value"], kld["error"], record["band"]))
    if not ours or not all(math.isfinite(point.y) and point.y > 0 for point in theirs + ours):
        return None
    series = {"llama-quantize with llama-imatrix": theirs, f"ggq-convert {OPTIONS}": ours}
    return as_file(points(series, ("bits per weight", "mean KL divergence, nats")))
