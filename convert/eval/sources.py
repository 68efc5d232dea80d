"""Where the logits of a chunk come from: a model that reads it, or a file of earlier ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

import ggq
from ggq.convert.eval.chunks import LEAST_CONTEXT, Chunks
from ggq.runtime.graph import Head
from ggq.runtime.model import Model

F32 = npt.NDArray[np.float32]
_BLOCK_BYTES = 1 << 26  # logits of one model that are in memory at a time
_LEAST_BLOCK = 16


class LogitSource(Protocol):
    """Gives logits f32 [V] for every scored position of a chunk.

    `identity` names these very bytes. `llama_base`: they are log-probabilities with a floor, out
    of a file of llama.cpp.
    """

    name: str
    identity: str
    n_vocab: int
    llama_base: bool

    def blocks(self, chunks: Chunks, number: int, step: int) -> Iterator[F32]:
        """f32 [step or less, V], in order; each is gone when the next is asked for."""


def block_tokens(n_vocab: int, scored: int = 0) -> int:
    """Positions whose logits are made at a time; never is one left over of `scored`."""
    most = max(_LEAST_BLOCK, min(512, _BLOCK_BYTES // (4 * n_vocab) // 16 * 16))
    return most if scored % most != 1 else most - 1


def identity(path: Path) -> str:
    """What tells a file from others and from its own earlier and later contents."""
    at = path.stat()
    return f"{path.resolve()} {at.st_size} {at.st_mtime_ns}"


class ModelLogits:
    """A model that reads the chunks."""

    llama_base = False

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        self.identity = "\n".join(map(identity, model.reader.paths))
        self.n_vocab = model.hparams.n_vocab
        self._session = model.session(1)

    def blocks(self, chunks: Chunks, number: int, step: int) -> Iterator[F32]:
        """Reads the first half without logits, then the second with them."""
        if self._session.n_ctx < chunks.n_ctx:
            self._session = self.model.session(chunks.n_ctx)
        fed, first = chunks.fed(number), chunks.first
        self._session.rewind(0)
        self._session.prefill(fed[:first].tolist())
        return self._session.score_blocks(fed[first:].tolist(), step)

    def head(self) -> Head:
        """The step that made the last block, with the states it read."""
        return self._session.head()

    def head_of(self, chunks: Chunks) -> Head:
        """The same before any block is asked for: reads two tokens."""
        next(self.blocks(Chunks(chunks.tokens[:1, : LEAST_CONTEXT + 2], chunks.bos), 0, 2))
        return self.head()


@contextmanager
def opened(
    path: str | os.PathLike[str], *, exact: bool = False, threads: int = 0
) -> Iterator[ModelLogits]:
    """The logits of a GGUF file. Raises what `ggq.load` raises."""
    with ggq.load(path, exact=exact, n_threads=threads) as model:
        yield ModelLogits(model, os.path.basename(os.fspath(path)))
