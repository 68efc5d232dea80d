"""ggq's own base files: small, and as exact as the reference itself.

A model's logits are its output matrix times a state of a few hundred numbers. So the states of all
scored tokens and the matrix, once, are all that is needed: for a vocabulary of 50,000 to 260,000
tokens 30 to 170 times less than logits of 16 bits, and nothing is rounded or cut off.
The file is a GGUF file: tokens and states of every text, and the matrix in its own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

import ggq
from ggq.blocks import by_name
from ggq.convert.eval.chunks import LEAST_CONTEXT, Chunks
from ggq.convert.eval.sources import ModelLogits, block_tokens, identity
from ggq.errors import FormatError
from ggq.metadata import Metadata
from ggq.reader import Reader, Tensor
from ggq.runtime.cores import usable_cores
from ggq.runtime.head import OutputMatrix
from ggq.runtime.threads import Team
from ggq.spec import ValueType
from ggq.writer import Writer

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
ARCHITECTURE = "ggq-base"
HEAD = "output.weight"
DOMAINS, BOS, SOFTCAP, EXACT = (f"ggq.base.{key}" for key in ("domains", "bos", "softcap", "exact"))
_NO_BOS = -1


def is_state_base(path: Path) -> bool:
    """Whether a GGUF file is a base file."""
    with ggq.open(path) as reader:
        return reader.metadata.get("general.architecture") == ARCHITECTURE


class StateBase:
    """A base file as the reference of its `texts`. Close it. Raises FormatError.

    `exact`: whether activations were kept as they are when it was made.
    """

    llama_base = False

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._reader = Reader(path)
        keys = self._reader.metadata
        self.name, self.identity = path.name, identity(path)
        self.exact = keys.require(EXACT, bool)
        bos = keys.require(BOS, int)
        domains = keys.get(DOMAINS, [])
        head = self._tensor(HEAD, 2)
        self.n_vocab, width = head.shape
        self.texts, self._states = [], []
        for number, domain in enumerate(domains):
            tokens = self._tensor(f"text.{number}.tokens", 2)
            ids = tokens.data.view("<i4").reshape(tokens.shape)
            if tokens.type.name != "I32" or tokens.shape[1] < LEAST_CONTEXT:
                raise FormatError(f"{tokens.name} are no chunks of tokens", path=path)
            if ids.min() < 0 or ids.max() >= self.n_vocab:
                raise FormatError(f"{tokens.name}: a token is outside the vocabulary", path=path)
            chunks = Chunks(np.array(ids), None if bos == _NO_BOS else bos, str(domain))
            states = self._tensor(f"text.{number}.states", 2)
            if states.shape != (len(chunks) * chunks.scored, width) or states.type.name != "F32":
                raise FormatError(
                    f"{states.name} is {states.type} {states.shape}, wanted F32 of "
                    f"{len(chunks) * chunks.scored} tokens, {width} each",
                    path=path,
                )
            self.texts.append(chunks)
            self._states.append(states.data.view("<f4").reshape(len(chunks), chunks.scored, width))
        self._team = Team(threads or usable_cores())
        self._head = OutputMatrix(
            self._reader.tensors, HEAD.removesuffix(".weight"), self._team,
            block_tokens(self.n_vocab), softcap=keys.require(SOFTCAP, float), exact=self.exact,
        )  # fmt: skip

    def _tensor(self, name: str, dimensions: int) -> Tensor:
        tensor = self._reader.tensors.get(name)
        if tensor is None or len(tensor.shape) != dimensions:
            raise FormatError(f"the base file holds no tensor {name}", path=self._reader.paths[0])
        return tensor

    def blocks(self, chunks: Chunks, number: int, step: int) -> Iterator[F32]:
        """f32 [step or less, V]."""
        (at,) = (i for i, text in enumerate(self.texts) if text is chunks)
        states = self._states[at][number]
        return (self._head(states[i : i + step]) for i in range(0, chunks.scored, step))

    def close(self) -> None:
        """End the threads and unmap the file."""
        self._team.close()
        self._reader.close()


class StateBaseWriter:
    """Writes what a reference leaves behind on `texts`. A context manager; whole or not at all."""

    def __init__(self, path: Path, texts: Sequence[Chunks], reference: ModelLogits) -> None:
        self._source = reference
        head = reference.head_of(texts[0])
        matrix = reference.model.tensors[f"{head.name}.weight"]
        metadata = Metadata()
        metadata.set("general.architecture", ARCHITECTURE, ValueType.STRING)
        metadata.set("general.name", reference.name, ValueType.STRING)
        metadata.set(DOMAINS, [t.domain for t in texts], ValueType.ARRAY, ValueType.STRING)
        bos = _NO_BOS if texts[0].bos is None else texts[0].bos
        metadata.set(BOS, bos, ValueType.I32)
        metadata.set(SOFTCAP, head.softcap, ValueType.F32)
        metadata.set(EXACT, reference.model.exact, ValueType.BOOL)
        infos = [ggq.TensorInfo(HEAD, matrix.shape, matrix.type)]
        for number, text in enumerate(texts):
            scored = len(text) * text.scored, matrix.shape[1]
            infos += [
                ggq.TensorInfo(f"text.{number}.tokens", text.tokens.shape, by_name("I32")),
                ggq.TensorInfo(f"text.{number}.states", scored, by_name("F32")),
            ]
        self._writer = Writer(path, metadata, infos)
        self._matrix, self._texts = matrix, texts
        self._at, self._left = -1, 0

    def __enter__(self) -> StateBaseWriter:
        self._writer.__enter__()
        self._writer.write(HEAD, self._matrix.data)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._writer.__exit__(kind, error, trace)

    def __call__(self, logits: F32, asked: I32) -> None:
        """Append the states the reference's logits f32 [T, V] were just made of."""
        if not self._left:
            self._at += 1
            text = self._texts[self._at]
            self._left = len(text) * text.scored
            self._writer.write(f"text.{self._at}.tokens", text.tokens.astype("<i4"))
        states = self._source.head().states[: len(logits)]
        self._writer.write(f"text.{self._at}.states", np.ascontiguousarray(states))
        self._left -= len(logits)
