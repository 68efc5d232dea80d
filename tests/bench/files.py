"""The model files of the rows, made when first asked for and kept in the tests' cache.

Published files come from the oracles, others from these through the installed tools, random ones
from tests/bench/random_model.py.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from tests import oracles
from tests.bench import random_model


def file(name: str, tools: Path) -> Path:
    """The file (or, for "smollm2-hf", the folder) of that name; `tools` holds ggq-convert."""
    if name == "smollm2-q4_1":
        return oracles.smollm2()
    if name == "gemma-3-270m-q4_k_m":
        return oracles.gemma3()
    model, _, kind = name.partition("-")
    if name == "smollm2-hf":
        return oracles.once("bench-smollm2-hf", partial(_export, tools))
    if model == "smollm2":
        source = oracles.smollm2() if kind.startswith("q") else file("smollm2-hf", tools)
        return oracles.once(f"bench-{name}.gguf", partial(_convert, tools, source, kind))
    return oracles.once(f"bench-{name}.gguf", partial(_random, model, kind))


def is_random(name: str) -> bool:
    """Whether the file is one of those that can be made again at any time."""
    return name.partition("-")[0] in random_model.SHAPES


def read_once(path: Path) -> None:
    """Have the system keep the file in memory."""
    for each in path.rglob("*") if path.is_dir() else [path]:
        if each.is_file():
            with each.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass


def _export(tools: Path, target: Path) -> None:
    subprocess.run([tools / "ggq-export", oracles.smollm2(), target], check=True)


def _convert(tools: Path, source: Path, kind: str, target: Path) -> None:
    how = ["--type", kind, "--compat", "llama", "--allow-requantize"]
    subprocess.run([tools / "ggq-convert", source, target, *how], check=True)


def _random(shape: str, kind: str, target: Path) -> None:
    mixture, pure = random_model.wanted(kind.upper(), False)
    random_model.write(target, random_model.SHAPES[shape], mixture, oracles.smollm2(), pure)
