"""Writes real_models.npz: logits transformers (f32, eager) gives the published models.

    ggq-export SMOLLM2.gguf DIR1 && ggq-export GEMMA3.gguf DIR2
    python -m tests.golden.make_real_models smollm2=DIR1 gemma3=DIR2

Needs torch and transformers; made with torch 2.13.0 and transformers 5.23.0. The text is the start
of tests/data/moby-dick.txt, longer than Gemma's attention window. Of the last positions it keeps
the largest logits, a column out of each of many even parts of the vocabulary, and the range of all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

TARGET = Path(__file__).with_name("real_models.npz")
TEXT = Path(__file__).parents[1] / "data" / "moby-dick.txt"
TOKENS, POSITIONS = 600, 80
TOP, EVEN = 128, 512


def golden(name: str, folder: str) -> dict[str, np.ndarray]:
    """Arrays of one model: tokens [TOKENS], and of the last POSITIONS the logits that are kept."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"][:TOKENS]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), logits_to_keep=POSITIONS).logits[0].numpy()
    top = np.argsort(-logits, axis=1)[:, :TOP]
    step = logits.shape[1] // EVEN
    return {
        f"{name}.tokens": np.array(tokens, np.int32),
        f"{name}.top": top.astype(np.int32),
        f"{name}.top_logits": np.take_along_axis(logits, top, axis=1),
        f"{name}.step": np.array(step),
        f"{name}.even_logits": logits[:, ::step].copy(),
        f"{name}.range": np.array(np.ptp(logits)),
    }


if __name__ == "__main__":
    arrays: dict[str, np.ndarray] = {}
    for argument in sys.argv[1:]:
        arrays |= golden(*argument.split("=", 1))
    np.savez_compressed(TARGET, **arrays)
    print(TARGET, TARGET.stat().st_size, "bytes")
