"""Writes recipe.json: the types and headers that native llama-quantize decides on.

    python -m tests.golden.make_recipe FOLDER_WITH_LLAMA_QUANTIZE

Made with llama.cpp as in llama-cpp-python 0.3.36. `plans`: for each model and options, per preset,
the start of the sha256 of "name TYPE" lines ("refused" where it refuses, "imatrix" appended where
it warns that one is needed). `headers`: sha256 of everything before the tensor data.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ggq.reader import Reader
from tests.quantize_inputs import (
    IMATRIX,
    IMATRIX_DAT,
    SOURCES,
    write_imatrix_dat,
    write_imatrix_gguf,
)
from tests.recipe_inputs import RECIPE_MODELS, cases

TARGET = Path(__file__).with_name("recipe.json")
# fmt: off
PRESETS = [
    "F32", "F16", "BF16", "COPY", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S",
    "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ1_S",
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
    "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE", "Q1_0", "Q2_0",
]
# fmt: on
HEADER_SOURCE = "tied"
HEADER_OPTIONS = {
    "": [],
    " imatrix": ["--imatrix", IMATRIX],
    " imatrix.dat": ["--imatrix", IMATRIX_DAT],
}
DIGEST = 10
TENSOR = re.compile(
    r"\[ *\d+/ *\d+\] (?P<name>\S+) +- \[.*?\], type = *(?P<old>\S+), size = [^(]*"
    r"(?:\((?P<new>\w+)\))?$"
)


def digest(types: list[tuple[str, str]]) -> str:
    """Start of the sha256 of (tensor name, type name) pairs in the order of the file."""
    lines = "".join(f"{name} {type}\n" for name, type in types)
    return hashlib.sha256(lines.encode()).hexdigest()[:DIGEST]


def native_plan(tool: Path, folder: Path, model: str, preset: str, arguments: list[str]) -> str:
    """Digest of the types in the dry run's log."""
    command = [str(tool), "--dry-run", *arguments, f"{model}.gguf", preset]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    log = done.stdout + done.stderr
    if "quant size" not in log:
        return "refused"
    found = filter(None, map(TENSOR.match, log.splitlines()))
    types = [(line["name"], (line["new"] or line["old"]).upper()) for line in found]
    return digest(types) + (" imatrix" if "will require an imatrix" in log else "")


def native_plans(tool: Path) -> dict[str, dict[str, str]]:
    """ "model options" -> preset -> digest."""
    plans = {}
    for model, options, arguments in cases():
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            RECIPE_MODELS[model].write(folder)
            RECIPE_MODELS[model].write_imatrix(folder)
            plans[f"{model} {options}".strip()] = {
                preset: native_plan(tool, folder, model, preset, arguments) for preset in PRESETS
            }
        print(model, options, file=sys.stderr)
    return plans


def header_sha256(path: Path) -> str:
    """sha256 of a GGUF file up to its tensor data."""
    with Reader(path) as reader:
        end = min(tensor.offset_bytes for tensor in reader.tensors.values())
    return hashlib.sha256(path.read_bytes()[:end]).hexdigest()


def native_headers(tool: Path) -> dict[str, str | None]:
    """ "preset [imatrix]" -> sha256 of the header of the quantized HEADER_SOURCE."""
    headers: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        SOURCES[HEADER_SOURCE].write(folder)
        write_imatrix_gguf(SOURCES[HEADER_SOURCE], folder)
        write_imatrix_dat(SOURCES[HEADER_SOURCE], folder)
        for preset in PRESETS:
            for key, options in HEADER_OPTIONS.items():
                command = [str(tool), *options, f"{HEADER_SOURCE}.gguf", "out.gguf", preset, "2"]
                done = subprocess.run(command, cwd=folder, capture_output=True)
                made = None if done.returncode else header_sha256(folder / "out.gguf")
                headers[preset + key] = made
    return headers


if __name__ == "__main__":
    native = Path(sys.argv[1]).resolve() / "llama-quantize"
    golden = {"plans": native_plans(native), "headers": native_headers(native)}
    TARGET.write_text(json.dumps(golden, indent=1))
    print(TARGET, TARGET.stat().st_size, "bytes")
