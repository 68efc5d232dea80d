"""Files and their reference read the same chunks side by side; no logits are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from ggq.convert.eval.chunks import Chunks
from ggq.convert.eval.compare import F32, I32, Compared, Comparer
from ggq.convert.eval.divergences import Divergences
from ggq.convert.eval.sources import LogitSource, block_tokens, opened
from ggq.errors import GGQError, UsageError
from ggq.runtime.cores import usable_cores

Path = str | os.PathLike[str]
Progress = Callable[[int, int], None]  # chunks done, of how many
Record = Callable[[F32, I32], None]


def evaluate(
    candidate: Path, reference: Path, chunks: Chunks, *, exact: bool = False, threads: int = 0,
    progress: Progress | None = None,
) -> Divergences:  # fmt: skip
    """What the GGUF file `candidate` says of every scored token, beside `reference`.

    `exact`: both read with activations as they are instead of rounded to bytes. Raises UsageError
    if their vocabularies differ, GGQError if logits are not finite, and what `ggq.load` raises.
    """
    with ExitStack() as stack:
        sources = [
            stack.enter_context(opened(path, exact=exact, threads=threads))
            for path in (candidate, reference)
        ]
        parts = []
        for each in compare_chunks(sources[1], sources[:1], chunks, range(len(chunks)), threads):
            parts += each
            if progress:
                progress(len(parts), len(chunks))
    return Divergences.of(parts)


def compare_chunks(
    reference: LogitSource, candidates: Sequence[LogitSource], chunks: Chunks,
    numbers: Sequence[int], threads: int = 0, record: Record | None = None,
) -> Iterator[list[Compared]]:  # fmt: skip
    """Of each chunk in `numbers`, what each candidate says beside the reference.

    `record` is given the reference's logits f32 [t, V] block by block, and the tokens they are
    asked for i32 [t].
    """
    check_vocabularies(reference, candidates)
    step = block_tokens(reference.n_vocab, chunks.scored)
    sources = [reference, *(c for c in candidates if c is not reference)]
    at = [sources.index(c) for c in candidates]
    with Comparer(threads or usable_cores()) as compare:
        for number in numbers:
            targets = chunks.targets(number)
            found: list[list[Compared]] = [[] for _ in candidates]
            start = 0
            for blocks in zip(*(s.blocks(chunks, number, step) for s in sources), strict=True):
                asked = targets[start : start + len(blocks[0])]
                start += len(asked)
                if record:
                    record(blocks[0], asked)
                for parts, i in zip(found, at, strict=True):
                    known = compare(blocks[0], blocks[i], asked, llama_base=reference.llama_base)
                    parts.append(known)
            yield [_joined(c, parts, number) for c, parts in zip(candidates, found, strict=True)]


def check_vocabularies(reference: LogitSource, candidates: Sequence[LogitSource]) -> None:
    """Raise UsageError unless all have as many tokens."""
    for candidate in candidates:
        if candidate.n_vocab != reference.n_vocab:
            raise UsageError(
                f"{candidate.name} has a vocabulary of {candidate.n_vocab} tokens, the reference "
                f"{reference.name} one of {reference.n_vocab}; compare files of one model"
            )


def _joined(candidate: LogitSource, parts: list[Compared], number: int) -> Compared:
    whole = Compared(*(np.concatenate(each) for each in zip(*map(_fields, parts), strict=True)))
    if not (np.isfinite(whole.kld).all() and np.isfinite(whole.nll).all()):
        raise GGQError(
            f"{candidate.name}: its logits, or the reference's, are not finite in chunk {number}; "
            "the file is damaged or its weights are beyond what it can compute"
        )
    return whole


def _fields(part: Compared) -> tuple[object, ...]:
    return part.nll, part.reference_nll, part.kld, part.delta_p, part.same_top
