"""Which columns matter, found out with tokens drawn at random: no text, and nothing of a corpus.

A column's importance is mostly the network's own doing: some hidden channels are larger than others
by orders of magnitude whatever is read. Tokens drawn evenly from the vocabulary show them; users of
llama-imatrix have found the same of nonsense text (early 2024, after llama.cpp's pull request
4861). On a stand-in for SmolLM2 a prototype halved the mean divergence at Q4_K_M with them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.calibrate.collect import collect
from ggq.convert.imatrix import Imatrix
from ggq.convert.sources.tensor_source import Source
from ggq.convert.writing.progress import Share
from ggq.metadata import Metadata

I32 = npt.NDArray[np.int32]

SEQUENCES, POSITIONS = 4, 256
NORMAL = 1  # of GGUF's types of tokens: no control, no byte, not unused


def random_tokens(metadata: Metadata, seed: int) -> I32:
    """i32[SEQUENCES, POSITIONS]: any normal token as likely as the other, each after BOS if any.

    Raises FormatError without a vocabulary.
    """
    count = len(metadata["tokenizer.ggml.tokens"])
    types = np.asarray(metadata.get("tokenizer.ggml.token_type", np.full(count, NORMAL)))
    normal = np.flatnonzero(types == NORMAL)
    rng = np.random.default_rng(seed)
    shape = SEQUENCES, POSITIONS
    drawn = rng.choice(normal if len(normal) else np.arange(count), shape).astype(np.int32)
    if "tokenizer.ggml.bos_token_id" in metadata:
        drawn[:, 0] = metadata["tokenizer.ggml.bos_token_id"]
    return drawn


def importance_of_columns(source: Source, seed: int, progress: bool) -> Imatrix:
    """Mean squares of every matrix' inputs over random tokens.

    Raises what `collect` raises.
    """
    with tempfile.TemporaryDirectory(prefix="ggq-convert-") as folder:
        tokens = random_tokens(source.metadata, seed)
        share = Share("weighing columns", progress)
        found = collect(source, tokens, Path(folder), gradients=False, progress=share)
        return Imatrix("random tokens", _squares(found), [], SEQUENCES)


def _squares(found: Calibration) -> dict[str, npt.NDArray[np.float32]]:
    """Name -> mean squares; of an expert never picked all columns count alike."""
    values = {}
    for name in found.names:
        squares, counts = found.squares(name)
        squares[counts == 0] = 1
        values[name] = squares.reshape(-1)
    return values
