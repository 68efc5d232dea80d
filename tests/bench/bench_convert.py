"""A model directory to Q4_K_M in one step beside llama.cpp's two, in turns.

    python -m tests.bench.bench_convert --llama-cpp TREE --llama-quantize PATH --python PATH FOLDER

FOLDER gets a random Llama of 1.2 G weights in bf16 (2.4 GB) and what the programs write. The two
steps are TREE/convert_hf_to_gguf.py, run by the --python that has its requirements, and
llama-quantize. Wall times of whole processes; the ratio is that of a round, the median is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ggq.convert.export.model_dir import export
from tests import oracles
from tests.bench.random_model import DEVIATION, SHAPES

CHUNK_ROWS = 1024
TYPE = "Q4_K_M"


def main() -> None:
    """Make the directory once, then take turns."""
    args = _arguments()
    model = args.folder / "model-1b"
    if not model.exists():
        write_model(model)
    ratios = []
    for turn in range(args.rounds):
        ours = _seconds([args.ggq_convert, model, args.folder / "ggq.gguf", "--type", TYPE,
                         "--compat", "llama", "--quiet"])  # fmt: skip
        middle, theirs = args.folder / "middle.gguf", args.folder / "llama.gguf"
        first = _seconds([args.python, args.llama_cpp / "convert_hf_to_gguf.py", model,
                          "--outtype", "bf16", "--outfile", middle])  # fmt: skip
        second = _seconds([args.llama_quantize, middle, theirs, TYPE])
        ratios.append((first + second) / ours)
        print(f"{turn + 1}: ggq-convert {ours:.1f} s; convert_hf_to_gguf {first:.1f} s and "
              f"llama-quantize {second:.1f} s: {ratios[-1]:.2f} times as long")  # fmt: skip
    print(f"median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path, metavar="FOLDER")
    installed = Path(sys.executable).parent / "ggq-convert"
    p.add_argument("--ggq-convert", type=Path, default=installed, help=f"default: {installed.name}")
    p.add_argument("--llama-cpp", type=Path, required=True, metavar="TREE")
    p.add_argument("--llama-quantize", type=Path, required=True)
    p.add_argument("--python", type=Path, required=True)
    p.add_argument("--rounds", type=int, default=5)
    return p.parse_args()


def _seconds(command: list[str | Path]) -> float:
    begin = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begin


def write_model(folder: Path) -> None:
    """A model directory of the shape 1b: SmolLM2's tokenizer, random weights in bf16."""
    export(oracles.smollm2(), folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    shape = SHAPES["1b"]
    config |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_safetensors(folder / "model.safetensors", _tensors(config["vocab_size"]))


def _tensors(n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Checkpoint name -> shape."""
    shape = SHAPES["1b"]
    places = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "token_embd": "model.embed_tokens",
        "output_norm": "model.norm", "output": "lm_head",
    }  # fmt: skip
    named = {}
    for name, size in shape.tensors(n_vocab):
        *block, plain, _ = name.split(".")
        inside = f"model.layers.{block[1]}." if block else ""
        named[f"{inside}{places[plain]}.weight"] = size
    return named


def _write_safetensors(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            rows = int(np.prod(shape[:-1]))
            for start in range(0, rows, CHUNK_ROWS):
                size = (min(CHUNK_ROWS, rows - start), shape[-1])
                x = rng.standard_normal(size, dtype=np.float32) * np.float32(DEVIATION)
                stream.write((x.view(np.uint32) >> 16).astype(np.uint16).tobytes())


if __name__ == "__main__":
    main()
