"""Quantized tensors kept on disk, so that trying another mixture makes only what is new.

An interrupted run finds them again in its --workdir. Memory: for each thread one tensor as f32 and
what the method prepares from its statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ggq.atomic import PendingFile
from ggq.blocks import BlockType
from ggq.convert.methods import Method, Needs, Prepared, covering
from ggq.convert.methods import Options as MethodOptions
from ggq.convert.mixtures.plan import PlannedTensor
from ggq.convert.mixtures.presets import is_quantized
from ggq.convert.sources.tensor_source import Source, TensorSource
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.progress import Progress
from ggq.convert.writing.workers import side_by_side

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Rows = npt.NDArray[Any]

CHUNK_WEIGHTS = 1 << 19
LARGE_COLUMNS = 8192  # statistics of this many columns fill the memory one by one
LOSS_ROWS = 128  # of a chunk that its loss is measured on, spread over it


class Known(Protocol):
    """What calibration knows: statistics by the name of a tensor, and of an expert in it."""

    @property
    def names(self) -> Iterable[str]: ...

    def of(
        self, name: str, expert: int | None = None, *, guided: bool = True, samples: bool = True
    ) -> Any: ...


@dataclass(frozen=True)
class Loss:
    """Mean square of a tensor's output error, as a share of the output's own: f(w + e) - f(w).

    `plain` is that of llama-quantize's rounding with the same importance, `kept` that of the file.
    """

    plain: float
    kept: float


class RowsStore(Encoder):
    """The rows of tensors in types, made by `method` when they are first needed.

    Tensors `passed_over` are somebody else's.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        known: Known,
        method: Method,
        options: MethodOptions,
        threads: int,
        passed_over: frozenset[str] = frozenset(),
    ) -> None:
        self.source = source
        self.known = known
        self.method = method
        self.options = options
        self.threads = threads
        self.tensors = {tensor.info.name: tensor for tensor in source.tensors}
        self._names = frozenset(known.names)
        self._passed_over = passed_over
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def knows(self, name: str) -> bool:
        """Whether calibration has statistics of a tensor."""
        return name in self._names

    def fill(self, planned: Iterable[PlannedTensor], progress: bool) -> None:
        """Make the rows of all planned tensors that are not there yet."""
        missing = [
            tensor
            for tensor in planned
            if self._mine(tensor) and not self._path(tensor, ".json").exists()
        ]
        total = sum(tensor.n_weights for tensor in missing)
        large = any(tensor.shape[-1] >= LARGE_COLUMNS for tensor in missing)
        with Progress(total, progress and total > 0, "quantizing") as bar:
            for tensor in side_by_side(self._make, missing, 1 if large else self.threads):
                bar.advance(tensor.n_weights)

    def ready(self, planned: PlannedTensor, start: int, stop: int) -> Rows | None:
        if not self._mine(planned):
            return None
        shape = (self.tensors[planned.name].n_rows, planned.info.row_bytes)
        return np.memmap(self._path(planned, ".rows"), np.uint8, "r", shape=shape)[start:stop]

    def loss(self, planned: PlannedTensor) -> Loss | None:
        """Errors of a tensor that was made here, None for others and without statistics."""
        if not self._mine(planned):
            return None
        found = json.loads(self._path(planned, ".json").read_text())
        return Loss(**found) if found else None

    def prepared(
        self, name: str, expert: int | None = None, *, samples: bool = True
    ) -> tuple[Any, Prepared]:
        """(statistics, what the method prepares from them) of a tensor calibration knows.

        Without `samples` the tokens that were kept one by one are not read.
        """
        guided = self.method.needs >= Needs.GRADIENTS
        stats = self.known.of(name, expert, guided=guided, samples=samples)
        return stats, self.method.prepare(stats, self.options)

    def _mine(self, planned: PlannedTensor) -> bool:
        made = is_quantized(planned.type) and not planned.copied
        return made and planned.name not in self._passed_over

    def _path(self, planned: PlannedTensor, suffix: str) -> Path:
        digest = hashlib.sha256(planned.name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        return self.folder / f"{digest}-{planned.type.name}{suffix}"

    def _make(self, planned: PlannedTensor) -> PlannedTensor:
        losses: list[Loss | None] = []
        file = PendingFile(self._path(planned, ".rows"))
        try:
            for rows, loss in self._matrices(planned):
                file.write(np.ascontiguousarray(rows).data.cast("B"))
                losses.append(loss)
            file.publish()
        finally:
            file.discard()
        found = [loss for loss in losses if loss is not None]
        mean = (
            Loss(*np.mean([(x.plain, x.kept) for x in found], axis=0).tolist()) if found else None
        )
        self._path(planned, ".json").write_text(json.dumps(mean and asdict(mean)))
        return planned

    def _matrices(self, planned: PlannedTensor) -> Iterator[tuple[U8, Loss | None]]:
        tensor = self.tensors[planned.name]
        height = tensor.info.shape[-2] if len(tensor.info.shape) > 2 else tensor.n_rows
        for first in range(0, tensor.n_rows, height):
            expert = first // height if len(tensor.info.shape) > 2 else None
            yield self._matrix(planned.type, tensor, expert, range(first, first + height))

    def _matrix(
        self, type: BlockType, tensor: TensorSource, expert: int | None, rows: range
    ) -> tuple[U8, Loss | None]:
        name = tensor.info.name
        step = max(1, CHUNK_WEIGHTS // tensor.info.shape[-1] // tensor.group) * tensor.group
        if self.method.whole:
            step = len(rows)
        chunks = [range(r, min(rows.stop, r + step)) for r in range(rows.start, rows.stop, step)]
        if not self.knows(name):
            plain = [type.quantize(tensor.floats(c.start, c.stop), threads=1) for c in chunks]
            return np.concatenate(plain), None
        stats, prepared = self.prepared(name, expert, samples=False)
        method, hessian = covering(self.method, type), stats.hessian
        made = []
        sums = np.zeros(3)
        for chunk in chunks:
            w = tensor.floats(chunk.start, chunk.stop)
            made.append(method.quantize(w, type, prepared, threads=1))
            some = slice(None, None, -(-len(w) // LOSS_ROWS))
            w = np.ascontiguousarray(w[some])
            plain_rows = type.quantize(w, prepared.importance, threads=1)
            sums += [
                _squares(type.dequantize(plain_rows) - w, hessian),
                _squares(type.dequantize(made[-1][some]) - w, hessian),
                _squares(w, hessian),
            ]
        whole = max(sums[2], 1e-30)
        return np.concatenate(made), Loss(sums[0] / whole, sums[1] / whole)


def _squares(e: F32, hessian: F32) -> float:
    return float(np.einsum("rc,rc->", e @ hessian, e, dtype=np.float64))
