"""How close files are to the full model: ggq-convert's beside llama-quantize's of the same bytes.

    python -m tests.bench.quality --llama-tools build/bin FOLDER
    python -m tests.bench.quality --llama-tools build/bin FOLDER --model gemma --bands Q4_K_M Q2_K

The models are the full-precision stand-ins of tests/standins.py; `--seed 1` makes others than those
ggq was tuned on. The peer gets llama-imatrix's matrix of the same calibration text, with and
without --process-output: the better of its two files counts. Both texts of tests/data/eval are
held out. FOLDER keeps every file, so that a run goes on where it was; ggq-eval measures them all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ggq
from ggq.convert.calibrate import corpus
from tests import held_out, oracles
from tests.standins import write_standin

BANDS = "Q5_K_M Q4_K_M Q3_K_M Q2_K IQ2_XXS".split()
CONTEXT = 512
MATRICES = {"layers": [], "all": ["--process-output"]}
RESULTS = Path(__file__).resolve().parent / "results"
OURS = "ggq"


def main() -> None:
    """Make and measure what is missing; keep the figures and the table."""
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = _once(args.folder / f"{args.model}-{args.seed}-f32.gguf", lambda path: write_standin(
        oracles.smollm2() if args.model == "smollm2" else oracles.gemma3(), path, args.seed
    ))  # fmt: skip
    matrices = llama_matrices(args, model)
    for band in args.bands:
        files = {
            f"{band}-{name}": llama_file(args, model, band, name, matrix)
            for name, matrix in matrices.items()
        }
        ours, seconds = our_file(args, model, band)
        record = {
            "model": args.model, "seed": args.seed, "band": band, "options": args.options,
            "chunks": args.chunks, "seconds": seconds, "date": time.strftime("%Y-%m-%d"),
            "report": evaluate(args, model, [*files.values(), ours]),
        }  # fmt: skip
        _keep(record)
        print(*_lines(record), sep="\n", flush=True)


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path, metavar="FOLDER")
    p.add_argument("--llama-tools", type=Path, required=True, metavar="DIR")
    p.add_argument("--ggq-tools", type=Path, default=Path(sys.executable).parent, metavar="DIR")
    p.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    p.add_argument("--bands", nargs="+", default=BANDS)
    p.add_argument("--seed", type=int, default=0, help="of the stand-in's noise")
    p.add_argument("--chunks", type=int, default=128, help="of each held-out text")
    p.add_argument("--tokens", type=int, default=24576, help="of calibration text")
    p.add_argument("--options", default="--method guided --alloc fisher", help="of ggq-convert")
    return p.parse_args()


def llama_matrices(args: argparse.Namespace, model: Path) -> dict[str, Path]:
    """llama-imatrix's matrices of the text ggq calibrates with."""
    text = _once(args.folder / f"{args.model}-calibration.txt", lambda path: path.write_text(
        calibration_text(model, args.tokens), encoding="utf-8"
    ))  # fmt: skip
    tool = [args.llama_tools / "llama-imatrix", "-m", model, "-f", text, "-c", CONTEXT]
    return {
        name: _once(
            args.folder / f"{model.stem}-{name}.imatrix",
            lambda path, more=more: _run(*tool, "-o", path, "--output-format", "gguf", *more),
        )
        for name, more in MATRICES.items()
    }


def calibration_text(model: Path, tokens: int) -> str:
    """The sequences ggq draws from its own text, as text again."""
    tokenizer = ggq.load(model).tokenizer
    return "\n".join(
        tokenizer.decode(row.tolist()) for row in corpus.sample(tokenizer, tokens, CONTEXT)
    )


def llama_file(
    args: argparse.Namespace, model: Path, band: str, name: str, matrix: Path
) -> Path:  # fmt: skip
    """The peer's file."""
    quantize = args.llama_tools / "llama-quantize"
    return _once(
        args.folder / f"{model.stem}-{band}-{name}.gguf",
        lambda path: _run(quantize, "--imatrix", matrix, model, path, band),
    )


def our_file(args: argparse.Namespace, model: Path, band: str) -> tuple[Path, float]:
    """Ggq's file and the seconds it took; 0 where it was there."""
    options = args.options.split()
    path = args.folder / f"{model.stem}-{band}-{OURS}{''.join(options)}.gguf"
    begin = time.monotonic()
    if not path.exists():
        work = ["--workdir", args.folder / f"{model.stem}-work", "--calib-tokens", args.tokens]
        _run(args.ggq_tools / "ggq-convert", model, path, "--type", band, *options, *work)
        return path, round(time.monotonic() - begin, 1)
    return path, 0.0


def evaluate(args: argparse.Namespace, model: Path, files: list[Path]) -> dict[str, Any]:
    """What ggq-eval says of the files, the first of them the one the others are held against."""
    texts = [held_out.FOLDER / name for name in held_out.texts()]
    done = subprocess.run(
        [str(part) for part in (
            args.ggq_tools / "ggq-eval", *files, "--reference", model, "--text", *texts,
            "-c", CONTEXT, "--chunks", args.chunks, "--json",
        )],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _once(path: Path, make: Any) -> Path:
    """The file, made under another name first if it is missing."""
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{path.name}")
        make(unfinished)
        unfinished.rename(path)
    return path


def _run(*command: object) -> None:
    print("+", *command, file=sys.stderr, flush=True)
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def _keep(record: dict[str, Any]) -> None:
    path = RESULTS / "quality.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    same = ("model", "seed", "band", "options", "chunks")
    kept = [one for one in kept if any(one[key] != record[key] for key in same)]
    path.write_text(json.dumps([*kept, record], indent=1) + "\n")
    lines = ["# Closeness to the full model", "", *__doc__.splitlines()[4:], ""]
    head = (
        "model | seed | band | options | text | chunks | llama.cpp KLD | ggq KLD | ratio | 99.9 %"
    )
    lines += [f"| {head} | bytes |", "|" + "---|" * 11]
    for one in [*kept, record]:
        lines += [f"| {' | '.join(row)} |" for row in _rows(one)]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(record: dict[str, Any]) -> list[list[str]]:
    """A row of the table for each text: ratios to the better of the peer's files."""
    rows = []
    sizes = [file["nbytes"] for file in record["report"]["files"]]
    for text in record["report"]["texts"]:
        *theirs, ours = (one["figures"] for one in text["files"])
        best = min(theirs, key=lambda figures: figures["kld_mean"]["value"])
        mean, tail = ((ours[key]["value"], best[key]["value"]) for key in ("kld_mean", "kld_99_9"))
        rows.append([
            record["model"], str(record["seed"]), record["band"], record["options"],
            Path(text["domain"]).stem, str(text["chunks"]), f"{mean[1]:.4f}", f"{mean[0]:.4f}",
            f"{mean[0] / mean[1]:.3f}", f"{tail[0] / tail[1]:.3f}",
            f"{sizes[-1] / sizes[theirs.index(best)]:.4f}",
        ])  # fmt: skip
    return rows


def _lines(record: dict[str, Any]) -> list[str]:
    took = f"{record['seconds']:.0f} s to convert" if record["seconds"] else "converted before"
    return [" ".join(row) + f" ({took})" for row in _rows(record)]


if __name__ == "__main__":
    main()
