"""How close files are to the full model: ggq-convert's beside llama-quantize's of the same bytes.

    python -m tests.bench.quality --llama-tools build/bin FOLDER
    python -m tests.bench.quality --llama-tools build/bin FOLDER --model gemma --bands Q4_K_M Q2_K
    python -m tests.bench.quality --plot

The models are the full-precision stand-ins of tests/standins.py; `--seed 1` makes others than those
ggq was tuned on. llama-quantize gets llama-imatrix's matrix of the same calibration text, with and
without --process-output where the output matrix is not the embedding: the better of its files
counts. With --no-calib among the --options it gets no matrix. The texts of tests/data/eval are held
out. ggq-eval measures all files of a band in one run, llama-perplexity the head of a text again.
FOLDER keeps files and measurements, so that a run goes on where it was; every band that is done
goes into tests/bench/results/quality.json, and quality.md and the plots are made anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ggq
from ggq.convert.calibrate.texts import BUILTIN, CONTEXT, choose_texts
from ggq.runtime.tokenizer import from_metadata
from tests import held_out, oracles
from tests.bench import quality_results as results
from tests.golden.make_perplexity import kld_figures
from tests.standins import write_standin

BANDS = "Q5_K_M Q4_K_M Q3_K_M Q2_K IQ2_XXS".split()
MATRICES = {"imatrix": [], "imatrix-output": ["--process-output"]}
NATIVE_TEXT = "moby-dick.txt"
Files = dict[str, Path]  # by who made it


def main() -> None:
    """Make and measure what is missing; keep the figures, the table and the plots."""
    args = _arguments()
    if args.plot:
        results.save(results.load())
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    model = _once(args.folder / f"{args.model}-{args.seed}-f32.gguf", lambda path: write_standin(
        oracles.smollm2() if args.model == "smollm2" else oracles.gemma3(), path, args.seed
    ))  # fmt: skip
    for band in args.bands:
        files = llama_files(args, model, band) | {results.OURS: our_file(args, model, band)}
        record = {
            "model": args.model, "seed": args.seed, "band": band, "options": args.options,
            "chunks": args.chunks, "calibration_tokens": args.tokens,
            "date": time.strftime("%Y-%m-%d"), "seconds": _seconds_of(files[results.OURS]),
            **measured(args, model, files), "native": native(args, model, files),
        }  # fmt: skip
        results.keep(record)
        print(*results.lines(record), sep="\n", flush=True)


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path, metavar="FOLDER", nargs="?")
    p.add_argument("--plot", action="store_true", help="only table and plots, of what is kept")
    p.add_argument("--llama-tools", type=Path, metavar="DIR")
    p.add_argument("--ggq-tools", type=Path, default=Path(sys.executable).parent, metavar="DIR")
    p.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    p.add_argument("--bands", nargs="+", default=BANDS)
    p.add_argument("--seed", type=int, default=0, help="of the stand-in's noise")
    p.add_argument("--chunks", type=int, default=44, help="of each held-out text")
    p.add_argument("--native-chunks", type=int, default=8, help="for llama-perplexity; 0: none")
    p.add_argument("--tokens", type=int, default=24576, help="of calibration text")
    p.add_argument("--options", default=results.OPTIONS, help="of ggq-convert")
    args = p.parse_args()
    if not args.plot and not (args.folder and args.llama_tools):
        p.error("FOLDER and --llama-tools are needed to measure")
    return args


def llama_files(args: argparse.Namespace, model: Path, band: str) -> Files:
    """The peer's files of a band."""
    quantize = args.llama_tools / "llama-quantize"
    files = {}
    for name, matrix in _matrices(args, model).items():
        with_matrix = ["--imatrix", matrix] if matrix else []
        files[f"llama {name}"] = _once(
            args.folder / f"{model.stem}-{band}-{name}.gguf",
            lambda path, w=with_matrix: _run(quantize, *w, model, path, band),
        )
    return files


def _matrices(args: argparse.Namespace, model: Path) -> dict[str, Path | None]:
    """llama-imatrix's matrices of the text ggq calibrates with; one, of nothing, if it does not."""
    if "--no-calib" in args.options:
        return {"plain": None}
    text = _once(args.folder / f"{args.model}-{args.tokens}.txt", lambda path: path.write_text(
        calibration_text(model, args.tokens), encoding="utf-8"
    ))  # fmt: skip
    tool = [args.llama_tools / "llama-imatrix", "-m", model, "-f", text, "-c", CONTEXT]
    tool += ["--parse-special", "--no-ppl", "--output-format", "gguf"]
    with ggq.open(model) as file:
        has_output = "output.weight" in file.tensors
    return {
        name: _once(
            args.folder / f"{model.stem}-{args.tokens}-{name}.gguf",
            lambda path, more=more: _run(*tool, "-o", path, *more),
        )
        for name, more in MATRICES.items()
        if has_output or not more
    }


def calibration_text(model: Path, tokens: int) -> str:
    """The sequences ggq-convert draws from its own text, as text again."""

    def none(sequences: int) -> Any:
        raise NotImplementedError

    with ggq.open(model) as file:
        tokenizer = from_metadata(file.metadata)
        rows = choose_texts(file.metadata, [BUILTIN], tokens, 0, 0, none).calibration
    begin = int(tokenizer.add_bos)
    texts = [tokenizer.decode(row[begin:].tolist(), special=True) for row in rows]
    return "\n".join(text.strip("\N{REPLACEMENT CHARACTER}") for text in texts)


def our_file(args: argparse.Namespace, model: Path, band: str) -> Path:
    """Ggq's file; how long it took stands beside it."""
    options = args.options.split()
    path: Path = (
        args.folder / f"{model.stem}-{band}-{results.OURS}-{args.tokens}{''.join(options)}.gguf"
    )
    if not path.exists():
        begin = time.monotonic()
        if "--no-calib" not in options:
            work = args.folder / f"{model.stem}-{args.tokens}-work"
            options += ["--workdir", str(work), "--calib-tokens", str(args.tokens)]
        _run(args.ggq_tools / "ggq-convert", model, path, "--type", band, *options)
        _timing(path).write_text(f"{time.monotonic() - begin:.1f}\n")
    return path


def _timing(path: Path) -> Path:
    return path.with_suffix(".seconds")


def _seconds_of(path: Path) -> float | None:
    """Seconds the conversion took, from statistics that were there if an earlier band made them."""
    return float(_timing(path).read_text()) if _timing(path).exists() else None


def measured(args: argparse.Namespace, model: Path, files: Files) -> results.Record:
    """What ggq-eval says of the files, the first of them the one the others are held against."""
    texts = [held_out.FOLDER / name for name in held_out.texts()]
    tool = [args.ggq_tools / "ggq-eval"]
    text = ["--text", *texts, "-c", CONTEXT, "--chunks", args.chunks]
    base = _once(args.folder / f"{model.stem}-{args.chunks}-base.gguf", lambda path: _run(
        *tool, "--reference", model, *text, "--save-base", path
    ))  # fmt: skip
    said = _said(*tool, *files.values(), "--reference", base, "--json",
                 "--workdir", args.folder / "measured")  # fmt: skip
    return results.figures_of(json.loads(said), list(files))


def native(args: argparse.Namespace, model: Path, files: Files) -> results.Record:
    """What llama-perplexity says of them: mean divergence by who made the file, and on how much."""
    if not args.native_chunks:
        return {}
    tool = [args.llama_tools / "llama-perplexity", "-c", CONTEXT]
    text = ["-f", held_out.FOLDER / NATIVE_TEXT, "--chunks", args.native_chunks]
    base = _once(
        args.folder / f"{model.stem}-{args.native_chunks}.base",
        lambda path: _run(*tool, "-m", model, *text, "--kl-divergence-base", path),
    )
    found: results.Record = {"text": Path(NATIVE_TEXT).stem, "chunks": args.native_chunks}
    for name, file in files.items():
        said = args.folder / f"{file.stem}-{args.native_chunks}.said"
        _once(said, lambda path, file=file: path.write_text(
            _said(*tool, "-m", file, "--kl-divergence", "--kl-divergence-base", base)
        ))  # fmt: skip
        found[name] = kld_figures(said.read_text())["kld_mean"]
    return found


def _once(path: Path, make: Callable[[Path], object]) -> Path:
    """The file, made under another name first if it is missing."""
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{path.name}")
        make(unfinished)
        unfinished.rename(path)
    return path


def _run(*command: object) -> None:
    _said(*command)


def _said(*command: object) -> str:
    """What a program prints, after it has ended well."""
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


if __name__ == "__main__":
    main()
