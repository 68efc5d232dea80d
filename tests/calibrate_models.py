"""A model as calibration runs it: all sections of a GGUF file, in single or double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.batch import Batch, Watch
from ggq.convert.calibrate.head import Head
from ggq.convert.calibrate.program import Program, record
from ggq.convert.calibrate.weights import Weights
from ggq.convert.sources.gguf_source import open_gguf
from ggq.runtime.arch import by_name

Array = npt.NDArray[Any]


@dataclass
class WholeModel:
    """Weights and program of one file; `changes` are added to weights."""

    program: Program
    weights: dict[str, Array]
    changes: dict[str, Array] = field(default_factory=dict)

    def batch(self, tokens: Sequence[int], watch: Watch | None = None) -> Batch:
        """A batch of one text."""
        weights = {name: x + self.changes.get(name, 0) for name, x in self.weights.items()}
        batch = Batch(np.array([tokens], np.int32), weights)
        if watch is not None:
            batch.watch = watch
        return batch

    def logits(self, tokens: Sequence[int], watch: Watch | None = None) -> Array:
        """[T, V]."""
        batch = self.batch(tokens, watch)
        self.forward(batch)
        head = self.program.sections[-1].operations[-1]
        assert isinstance(head, Head)
        return head.logits(batch)

    def forward(self, batch: Batch) -> None:
        """Through all sections."""
        x = None
        for section in self.program.sections:
            x = section.forward(batch, x)


def whole_model(path: Path, n_ctx: int, dtype: type = np.float32) -> WholeModel:
    """The model in a GGUF file."""
    weights = Weights(open_gguf(path))
    arch = by_name(str(weights.metadata["general.architecture"]))
    h = arch.hparams(weights.metadata)
    program = record(arch, h, weights.shapes, weights.read, n_ctx)
    names = [name for section in program.sections for name in section.tensors]
    read = weights.read_all(dict.fromkeys(names))
    return WholeModel(program, {name: x.astype(dtype) for name, x in read.items()})
