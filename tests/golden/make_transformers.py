"""Writes transformers.npz: the logits transformers (f32, eager) gives the tiny models.

    python -m tests.golden.make_transformers

Needs torch and transformers; made with torch 2.13.0 and transformers 5.23.0.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.models import TINY, TinyModel

TARGET = Path(__file__).with_name("transformers.npz")


def golden_logits(model: TinyModel) -> np.ndarray:
    """model -> f32[64, V], one row for each token of its prompt."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            model.write_hf(Path(folder)), dtype=torch.float32, attn_implementation="eager"
        )
    with torch.no_grad():
        return loaded(torch.tensor([model.prompt()])).logits[0].numpy()


if __name__ == "__main__":
    np.savez_compressed(TARGET, **{name: golden_logits(model) for name, model in TINY.items()})
    print(TARGET, TARGET.stat().st_size, "bytes")
