"""Writes arch_reference.json: keys, tensors and files that llama.cpp's converter makes.

    GGQ_LLAMA_CPP=TREE python -m tests.golden.make_arch_reference BIN EXPORTED/smollm2 ...

BIN holds llama-quantize; each further folder is a published model as ggq-export writes it.
`files` are sha256 of what llama-quantize makes of the converter's F32 file.
Needs torch and transformers. The tiny vocabulary is in no hash list of the reference, so its
pre-tokenizer name is given.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from tests.arch_cases import CONFIGS, PRESETS
from tests.models import TINY, write_tokenizer
from tests.oracles import llama_cpp_tree

TARGET = Path(__file__).with_name("arch_reference.json")
RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def converted(model: Path, *options: str, patched: bool = True) -> GGUFReader:
    """What the reference makes of a model directory."""
    out = model / "out.gguf"
    command = [sys.executable, "-c", RUN, str(llama_cpp_tree()), str(model)]
    if not patched:
        command[1:4] = [str(llama_cpp_tree() / "convert_hf_to_gguf.py")]
    subprocess.run([*command, "--outfile", str(out), *options], check=True, capture_output=True)
    return GGUFReader(out)


def keys(reader: GGUFReader) -> list[list[Any]]:
    """[key, type, value] of the keys of the architecture, in the order of the file."""
    arch = reader.fields["general.architecture"].contents()
    return [
        [name, field.types[0].name, field.contents()]
        for name, field in reader.fields.items()
        if name.startswith(f"{arch}.")
    ]


def quantized(tool: Path, source: Path, preset: str) -> str:
    """sha256 of the file in a preset."""
    out = source.with_name("quantized.gguf")
    subprocess.run([tool, source, out, preset, "1"], check=True, capture_output=True)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def main(tool: Path, exported: list[Path]) -> None:
    """Run the reference on every case."""
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, model in TINY.items():
            folder = model.write_hf(Path(work) / name)
            reader = converted(folder, "--outtype", "f32")
            files = {preset: quantized(tool, folder / "out.gguf", preset) for preset in PRESETS}
            hashes = {t.name: hashlib.sha256(t.data.tobytes()).hexdigest() for t in reader.tensors}
            made[name] = {"keys": keys(reader), "tensors": hashes, "files": files}
        for name, config in CONFIGS.items():
            folder = Path(work) / name
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            write_tokenizer(folder)
            made[name] = {"keys": keys(converted(folder, "--outtype", "f32", "--vocab-only"))}
    for folder in exported:
        converted(folder, "--outtype", "f32", patched=False)
        made[f"exported {folder.name}"] = {
            "files": {"Q4_K_M": quantized(tool, folder / "out.gguf", "Q4_K_M")}
        }
    TARGET.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() / "llama-quantize", list(map(Path, sys.argv[2:])))
