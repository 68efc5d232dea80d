"""The base files of llama-perplexity (--kl-divergence-base): rounded log-probabilities of one run.

"_logits_", u32 n_ctx, i32 V, i32 chunks, i32 tokens[chunks * n_ctx]; then for every scored token
f32 scale, f32 least, u16 codes[V], and one more code where V is odd: a log-probability is
least + scale * code. All that are more than 16 nats below the likeliest are lost.
Source: llama.cpp tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ggq.atomic import PendingFile, check_space, check_target
from ggq.convert.eval.chunks import LEAST_CONTEXT, Chunks
from ggq.convert.eval.sources import identity
from ggq.errors import LimitError, TruncatedError

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
MAGIC = b"_logits_"
_HEADER = struct.Struct("<8sIii")
_DEPTH = 16.0  # nats
_CODES = 65535


def is_llama_base(path: Path) -> bool:
    """Whether a file begins as a base file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _row_words(n_vocab: int) -> int:
    """u16 words of one token."""
    return 4 + n_vocab + n_vocab % 2


class LlamaBase:
    """A base file as the reference of `texts`. Raises TruncatedError, LimitError.

    `bos`: what models read in place of the first token of a chunk, which the file does not tell.
    """

    llama_base = True

    def __init__(self, path: Path, bos: int | None) -> None:
        self.name, self.identity = path.name, identity(path)
        nbytes = path.stat().st_size
        if nbytes < _HEADER.size:
            raise TruncatedError("the file ends inside the header", path=path)
        with path.open("rb") as file:
            _, n_ctx, self.n_vocab, count = _HEADER.unpack(file.read(_HEADER.size))
        if n_ctx < LEAST_CONTEXT or self.n_vocab < 1 or count < 1:
            what = f"{count} chunks of {n_ctx} tokens, {self.n_vocab} in the vocabulary"
            raise LimitError(f"the header says {what}; no base file does", path=path)
        scored, words = n_ctx - 1 - n_ctx // 2, _row_words(self.n_vocab)
        wanted = _HEADER.size + 4 * count * n_ctx + 2 * count * scored * words
        if nbytes < wanted:
            raise TruncatedError(
                f"{count} chunks of {n_ctx} tokens take {wanted:,} bytes, the file has {nbytes:,};"
                " it was cut short",
                path=path,
            )
        tokens = np.memmap(path, "<i4", "r", _HEADER.size, (count, n_ctx))
        if tokens.min() < 0 or tokens.max() >= self.n_vocab:
            raise LimitError("a token is outside of the vocabulary", path=path)
        begin = _HEADER.size + tokens.nbytes
        self._rows = np.memmap(path, "<u2", "r", begin, (count, scored, words))
        self.texts = [Chunks(np.array(tokens, np.int32), bos, path.stem)]

    def blocks(self, chunks: Chunks, number: int, step: int) -> Iterator[F32]:
        """Log-probabilities f32 [step or less, V]."""
        for start in range(0, chunks.scored, step):
            rows = np.array(self._rows[number, start : start + step])
            scale, least = (rows[:, k : k + 2].copy().view("<f4") for k in (0, 2))
            yield scale * rows[:, 4 : 4 + self.n_vocab].astype(np.float32) + least


class LlamaBaseWriter:
    """Writes the logits of a reference on one text. A context manager; whole or not at all."""

    def __init__(self, path: Path, chunks: Chunks, n_vocab: int) -> None:
        check_target(path)
        self._row = np.zeros(_row_words(n_vocab), "<u2")
        check_space(path.parent, 2 * len(self._row) * len(chunks) * chunks.scored)
        self._file = PendingFile(path)
        header = _HEADER.pack(MAGIC, chunks.n_ctx, n_vocab, len(chunks))
        self._file.write(memoryview(header + chunks.tokens.astype("<i4").tobytes()))

    def __enter__(self) -> LlamaBaseWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            if kind is None:
                self._file.sync()
                self._file.publish()
        finally:
            self._file.discard()

    def __call__(self, logits: F32, asked: I32) -> None:
        """Append logits f32 [T, V]."""
        rows = np.zeros((len(logits), len(self._row)), "<u2")
        top = logits.max(axis=1, keepdims=True)
        low = np.maximum(logits.min(axis=1, keepdims=True), top - np.float32(_DEPTH))
        sums = np.exp(logits - top).sum(axis=1, keepdims=True, dtype=np.float64)
        least = low - top - np.log(sums).astype(np.float32)
        scale = (top - low) / np.float32(_CODES)
        with np.errstate(divide="ignore"):
            inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
        codes = np.rint(inverse * np.maximum(logits - low, np.float32(0)))
        rows[:, :2], rows[:, 2:4] = (x.astype("<f4").view("<u2") for x in (scale, least))
        rows[:, 4 : 4 + logits.shape[1]] = np.minimum(codes, _CODES)
        self._file.write(rows.data.cast("B"))
