"""Writes llama_cpp.json: sha256 of what native llama.cpp tools make of our seeded inputs.

    python -m tests.golden.make_llama_cpp FOLDER_WITH_LLAMA_QUANTIZE_AND_LIBGGML_BASE

Made with an x86-64 build (gcc, Release) of llama.cpp as in llama-cpp-python 0.3.36. A null means
that llama-quantize refused. `inputs` holds the sources' own hashes, so that a change of an input
is not taken for a change of the output.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.models import F32Array
from tests.oracles import sha256
from tests.quantize_inputs import (
    IMATRIX,
    IMATRIX_DAT,
    SOURCES,
    block_importances,
    block_inputs,
    write_imatrix_dat,
    write_imatrix_gguf,
)

TARGET = Path(__file__).with_name("llama_cpp.json")
# fmt: off
PRESETS = [
    "F32", "F16", "BF16", "COPY", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S",
    "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL",
    "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE", "Q1_0", "Q2_0", "IQ1_S", "IQ1_M", "IQ2_XXS",
    "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
]
# fmt: on
LOW = ("IQ1", "IQ2", "IQ3")  # most of these need an importance for every tensor
OPTIONS = {
    "pure": ["--pure"],
    "output": ["--leave-output-tensor"],
    "types": ["--token-embedding-type", "q8_0", "--output-tensor-type", "q5_0"],
    "regex": ["--tensor-type", "ffn_down=q6_k", "--tensor-type", r"blk\.[0-3]\.attn_v=q8_0"],
}
# Type -> its number, and the importance it is given: none, any, both.
GGML_TYPES = {
    "Q2_0": (42, "none"), "IQ1_S": (19, "any"), "IQ1_M": (29, "both"), "IQ2_XXS": (16, "any"),
    "IQ2_XS": (17, "any"), "IQ2_S": (22, "both"), "IQ3_XXS": (18, "both"), "IQ3_S": (21, "both"),
}  # fmt: skip


def quantized_sha256(
    tool: Path, folder: Path, source: str, preset: str, *options: str
) -> str | None:
    """sha256 of the file llama-quantize writes, or None where it refuses."""
    out = folder / "out.gguf"
    out.unlink(missing_ok=True)
    # names, not paths: the importance file's name is stored in the result
    command = [str(tool), *options, f"{source}.gguf", out.name, preset, "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    return None if done.returncode else sha256(out)


def file_hashes(tool: Path) -> tuple[dict[str, str], dict[str, str | None]]:
    """(name of input -> sha256, "source preset option" -> sha256 of the result)."""
    inputs: dict[str, str] = {}
    results: dict[str, str | None] = {}
    for name, source in SOURCES.items():
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            inputs[name] = sha256(source.write(folder))
            inputs[f"{name} imatrix"] = sha256(write_imatrix_gguf(source, folder))
            inputs[f"{name} imatrix.dat"] = sha256(write_imatrix_dat(source, folder))
            for preset in PRESETS:
                for key, options in (("", []), (" imatrix", ["--imatrix", IMATRIX])):
                    found = quantized_sha256(tool, folder, name, preset, *options)
                    results[f"{name} {preset}{key}"] = found
            for key, options in OPTIONS.items():
                results[f"{name} Q4_K_M {key}"] = quantized_sha256(
                    tool, folder, name, "Q4_K_M", *options
                )
            for preset in ("Q4_K_M", "Q2_K_S", *(name for name in PRESETS if name[:3] in LOW)):
                found = quantized_sha256(tool, folder, name, preset, "--imatrix", IMATRIX_DAT)
                results[f"{name} {preset} imatrix.dat"] = found
            print(name, "done", file=sys.stderr)
    return inputs, results


def block_hashes(library: Path) -> dict[str, str]:
    """ "TYPE kind" -> sha256 of what ggml_quantize_chunk makes of block_inputs().

    The bytes for every importance of `importances_for` follow each other.
    """
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_row_size.restype = ctypes.c_size_t
    hashes = {}
    for name, (number, _) in GGML_TYPES.items():
        ggml.ggml_quantize_init(number)
        for kind, x in block_inputs().items():
            rows, cols = x.shape
            digest = hashlib.sha256()
            for importance in importances_for(name):
                out = np.zeros(rows * ggml.ggml_row_size(number, ctypes.c_int64(cols)), np.uint8)
                written = ggml.ggml_quantize_chunk(
                    ctypes.c_int(number),
                    x.ctypes.data_as(ctypes.c_void_p),
                    out.ctypes.data_as(ctypes.c_void_p),
                    *map(ctypes.c_int64, (0, rows, cols)),
                    None if importance is None else importance.ctypes.data_as(ctypes.c_void_p),
                )
                assert written == out.nbytes
                digest.update(out.tobytes())
            hashes[f"{name} {kind}"] = digest.hexdigest()
    return hashes


def importances_for(type: str) -> list[F32Array | None]:
    """What a type is quantized with in the hashes of blocks."""
    kinds: list[F32Array | None] = list(block_importances().values())
    return {"none": [None], "any": kinds, "both": [None, *kinds]}[GGML_TYPES[type][1]]


if __name__ == "__main__":
    native = Path(sys.argv[1]).resolve()
    inputs, files = file_hashes(native / "llama-quantize")
    blocks = block_hashes(native / "libggml-base.so")
    TARGET.write_text(json.dumps({"inputs": inputs, "files": files, "blocks": blocks}, indent=1))
    print(TARGET, TARGET.stat().st_size, "bytes")
