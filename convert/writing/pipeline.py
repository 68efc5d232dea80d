"""Read, bring into layout, quantize, write: one stream from a source to the output file.

Memory: at most 2 * threads + 2 chunks are in work at a time, each of at most CHUNK_WEIGHTS weights
or one row (one attention head where rows change places): its source bytes, its f32 values and its
output, about 12 bytes a weight. The size of a tensor, or of the model, does not matter.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan, PlannedTensor
from ggq.convert.sources.mapped import same_file
from ggq.convert.sources.tensor_source import F32, Source, TensorSource
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.progress import Progress
from ggq.convert.writing.stages import Load, Stages
from ggq.errors import QuantizeError, UsageError
from ggq.metadata import Metadata
from ggq.shards import Split
from ggq.writer import Writer

Rows = npt.NDArray[Any]

CHUNK_WEIGHTS = 1 << 19
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Chunk:
    """Rows start .. stop of one tensor, all of one matrix, with that matrix's importance."""

    planned: PlannedTensor
    tensor: TensorSource
    start: int
    stop: int
    importance: F32 | None
    encoder: Encoder

    def encode(self) -> Rows:
        """The bytes of these rows in the output. Raises QuantizeError naming the weight."""
        type = self.planned.type
        ready = self.encoder.ready(self.planned, self.start, self.stop)
        if ready is not None:
            return ready
        if self.planned.copied and self.tensor.has_stored:
            if type.name in FLOATS:
                self._refuse_not_finite(self.tensor.floats(self.start, self.stop))
            return self.tensor.stored(self.start, self.stop)
        x = self.tensor.floats(self.start, self.stop)
        if type.name == "F32":
            self._refuse_not_finite(x)
            return x
        try:
            return self.encoder.encode(self.planned, x, self.importance)
        except QuantizeError as error:
            if error.row is None or error.column is None:
                raise QuantizeError(f"tensor {self.planned.name}: {error}") from None
            raise self._refusal(x, error.row, error.column) from None

    def _refuse_not_finite(self, x: F32) -> None:
        # One NaN or infinity makes the sum so too; a sum can also overflow by itself.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(x.sum()) or np.isfinite(x).all():
                return
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise self._refusal(x, int(row), int(column))

    def _refusal(self, x: F32, row: int, column: int) -> QuantizeError:
        return QuantizeError(
            f"tensor {self.planned.name}: the weight in row {self.start + row}, column {column} "
            f"is {x[row, column]}, which {self.planned.type} cannot store; "
            "nothing was written",
            row=self.start + row,
            column=column,
        )


@dataclass(frozen=True)
class Result:
    """What was written."""

    paths: list[Path]
    nbytes: int
    seconds: float
    plan: Plan
    load: Load

    def summary(self) -> str:
        """One line: size, bits per weight, types, fallbacks, seconds."""
        counts = Counter(tensor.type.name for tensor in self.plan.tensors)
        types = ", ".join(f"{n} {name}" for name, n in counts.most_common())
        fallback = self.plan.fallback_summary()
        return "; ".join(
            part
            for part in (
                f"{self.paths[0]}: {self.nbytes / 1e6:,.1f} MB",
                f"{self.plan.bits_per_weight:.2f} bits per weight",
                types,
                fallback or "no fallbacks",
                f"{self.seconds:.1f} s",
            )
            if part
        )


def convert(
    source: Source,
    plan: Plan,
    metadata: Metadata,
    out: Path,
    *,
    imatrix: Imatrix | None = None,
    encoder: Encoder | None = None,
    split: Split | None = None,
    threads: int = 0,
    progress: bool = False,
) -> Result:
    """Write `out` (or its shards) from `source` by `plan`; `threads` 0 takes every core.

    `encoder` makes the blocks, by default as llama-quantize does.

    Raises UsageError when the output is a file of the source, QuantizeError for a weight or a type
    that cannot be written, DiskFullError.
    On an error or a signal nothing is left, and an older `out` stays as it was.
    """
    begin = time.monotonic()
    writer = Writer(out, metadata, [tensor.info for tensor in plan.tensors], split=split)
    refuse_overwriting(writer.paths, source.files)
    tensors = {tensor.info.name: tensor for tensor in source.tensors}
    stages = Stages(threads or available_threads(), writer.clock)
    work = chunks(plan, tensors, imatrix, encoder or Encoder())
    encoded = _encoded(work, stages)
    with writer, Progress(plan.n_weights, progress) as bar, closing(encoded):
        for chunk, rows in encoded:
            writer.write(chunk.planned.name, rows.data)
            chunk.tensor.release(chunk.start, chunk.stop)
            bar.advance((chunk.stop - chunk.start) * (chunk.planned.shape or (1,))[-1])
    seconds = time.monotonic() - begin
    return Result(writer.paths, writer.nbytes, seconds, plan, stages.load(seconds))


def _encoded(work: Iterator[Chunk], stages: Stages) -> Generator[tuple[Chunk, Rows], None, None]:
    """The chunks in order with their bytes; those that follow are read and encoded meanwhile."""

    def read(chunk: Chunk) -> None:
        with stages.reading:
            chunk.tensor.read(chunk.start, chunk.stop)

    def encode(chunk: Chunk, in_memory: Future[None]) -> Rows:
        in_memory.result()
        with stages.arithmetic:
            return chunk.encode()

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(stages.threads) as pool:
        waiting: deque[tuple[Chunk, Future[Rows]]] = deque()
        try:
            for chunk in work:
                chunk.tensor.will_need(chunk.start, chunk.stop)
                waiting.append((chunk, pool.submit(encode, chunk, reader.submit(read, chunk))))
                if len(waiting) > 2 * stages.threads + 1:
                    first, rows = waiting.popleft()
                    yield first, rows.result()
            for chunk, rows in waiting:
                yield chunk, rows.result()
        except BaseException:
            for executor in (reader, pool):
                executor.shutdown(wait=False, cancel_futures=True)
            raise


def chunks(
    plan: Plan,
    tensors: dict[str, TensorSource],
    imatrix: Imatrix | None,
    encoder: Encoder,
) -> Iterator[Chunk]:
    """The rows of every tensor in the order of the output."""
    for planned in plan.tensors:
        tensor = tensors[planned.name]
        importance = None if imatrix is None else imatrix.importance(tensor.info)
        shape = tensor.info.shape
        matrix_rows = shape[-2] if len(shape) > 2 else tensor.n_rows
        columns = shape[-1] if shape else 1
        step = max(1, CHUNK_WEIGHTS // max(1, columns) // tensor.group) * tensor.group
        for first in range(0, tensor.n_rows, max(1, matrix_rows)):
            of_matrix = None if importance is None else importance[first // matrix_rows]
            last = first + matrix_rows
            for start in range(first, last, step):
                stop = min(start + step, last)
                yield Chunk(planned, tensor, start, stop, of_matrix, encoder)


def refuse_overwriting(outputs: list[Path], sources: list[Path]) -> None:
    """Raise UsageError if an output is a file of the source, under whatever name."""
    for output in outputs:
        for source in sources:
            if same_file(output, source):
                raise UsageError(f"{output}: this is the source file {source}; name another output")


def available_threads() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
