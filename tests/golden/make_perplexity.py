"""Writes perplexity.json: what native llama-perplexity says of the published models.

    python -m tests.golden.make_perplexity FOLDER_WITH_LLAMA_PERPLEXITY_AND_LLAMA_QUANTIZE

Perplexity of both published files, and the divergence of Q2_K from the widened SmolLM2 in F32 and
from the published Gemma 3, on the head of tests/data/eval/moby-dick.txt. Made with an x86-64
build of llama.cpp, commit 0c1e570.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import oracles, standins

TARGET = Path(__file__).with_name("perplexity.json")
TEXT = Path(__file__).parents[1] / "data" / "eval" / "moby-dick.txt"
CHUNKS, N_CTX = 12, 512
FIGURES = {
    "perplexity": r"Mean PPL\(Q\) +: +(\S+)",
    "reference_perplexity": r"Mean PPL\(base\) +: +(\S+)",
    "ln_perplexity_ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\) +: +(\S+)",
    "kld_mean": r"Mean +KLD: +(\S+)",
    "kld_max": r"Maximum KLD: +(\S+)",
    "kld_99_9": r"99.9% +KLD: +(\S+)",
    "kld_99": r"99.0% +KLD: +(\S+)",
    "kld_95": r"95.0% +KLD: +(\S+)",
    "kld_median": r"Median +KLD: +(\S+)",
    "delta_p_mean": r"Mean +Δp: +(\S+)",
    "delta_p_rms": r"RMS Δp +: +(\S+)",
    "same_top": r"Same top p: +(\S+)",
}
PERCENT = ("delta_p_mean", "delta_p_rms", "same_top")


def said(tools: Path, name: str, *args: str) -> str:
    """What a tool prints."""
    done = subprocess.run([str(tools / name), *args], capture_output=True, check=True)
    return (done.stdout + done.stderr).decode()


def perplexity_of(tools: Path, model: Path, *more: str) -> float:
    """Of the head of the text."""
    args = ["-m", str(model), "-f", str(TEXT), "-c", str(N_CTX), "--chunks", str(CHUNKS)]
    found = re.search(r"Final estimate: PPL = (\S+)", said(tools, "llama-perplexity", *args, *more))
    assert found
    return float(found[1])


def kld_figures(text: str) -> dict[str, float]:
    """The figures in what llama-perplexity prints of a divergence; shares of 1."""
    figures = {}
    for name, pattern in FIGURES.items():
        found = re.search(pattern, text)
        assert found, pattern
        figures[name] = float(found[1]) / (100 if name in PERCENT else 1)
    return figures


def divergence(tools: Path, model: Path, type: str) -> dict[str, float]:
    """Of the model as `type` from itself."""
    with tempfile.TemporaryDirectory() as folder:
        base, small = str(Path(folder) / "base"), str(Path(folder) / "small.gguf")
        perplexity_of(tools, model, "--kl-divergence-base", base)
        said(tools, "llama-quantize", "--allow-requantize", str(model), small, type)
        return kld_figures(said(tools, "llama-perplexity", "-m", small, "-c", str(N_CTX),
                                "--kl-divergence", "--kl-divergence-base", base))  # fmt: skip


def main(tools: Path) -> None:
    """Run the tools and write the figures."""
    wide = oracles.once(
        "smollm2-widened-f32.gguf",
        lambda target: standins.write_standin(oracles.smollm2(), target, seed=None),
    )
    golden = {
        "chunks": CHUNKS,
        "n_ctx": N_CTX,
        "perplexity": {
            "smollm2": perplexity_of(tools, oracles.smollm2()),
            "gemma3": perplexity_of(tools, oracles.gemma3()),
        },
        "divergence": {
            "widened_smollm2 q2_k": divergence(tools, wide, "q2_k"),
            "gemma3 q2_k": divergence(tools, oracles.gemma3(), "q2_k"),
        },
    }
    TARGET.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
