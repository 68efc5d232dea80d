"""Text that the model itself writes: its own distribution, whatever it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]


def written_by(path: Path, sequences: int, context: int, seed: int, threads: int) -> I32:
    """i32[sequences, context]: tokens drawn one after the other from a model at temperature 1.

    `path`: a GGUF file. Each sequence begins with BOS, or where the vocabulary has none, with the
    token that ends texts. Raises what `ggq.load` raises.
    """
    import ggq

    rng = np.random.default_rng(seed)
    out = np.zeros((sequences, context), np.int32)
    with ggq.load(path, n_threads=threads) as model:
        tokenizer = model.tokenizer
        first = next((t for t in (tokenizer.bos, tokenizer.eos) if t is not None), 0)
        session = model.session(context)
        for row in out:
            session.rewind(0)
            row[0] = first
            logits = session.prefill([first])
            for k in range(1, context):
                row[k] = _drawn(logits, rng)
                if k + 1 < context:
                    logits = session.decode(int(row[k]))
    return out


def _drawn(logits: npt.NDArray[np.float32], rng: np.random.Generator) -> int:
    p = np.exp(logits.astype(np.float64) - logits.max())
    cumulative = np.cumsum(p)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
