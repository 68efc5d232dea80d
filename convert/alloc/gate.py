"""What decides about an allocation in the end: divergence measured on text held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggq.convert.eval import Chunks, evaluate
from ggq.convert.mixtures.plan import Plan
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.reference_file import reference_file, write_candidate
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.rows_store import RowsStore

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]


@dataclass
class Judge:
    """Measures plans: KL divergence from the model as it was, token by token of text held out.

    `original` is that model, `source` the one that is written (the same, or rearranged). Every
    other piece of `held_out` i32[n, tokens] judges swaps, the rest what comes out of them, so that
    choosing among many does not flatter the choice.
    """

    folder: Path
    original: Source
    source: Source
    encoder: Encoder
    store: RowsStore
    held_out: I32
    progress: bool

    def swaps(self, plan: Plan) -> F64:
        """Divergences on the pieces that choose."""
        return self._measure(plan, self.held_out[0::2])

    def result(self, plan: Plan) -> F64:
        """Divergences on the pieces that nothing was chosen by."""
        return self._measure(plan, self.held_out[1::2])

    def _measure(self, plan: Plan, pieces: I32) -> F64:
        self.store.fill(plan.tensors, self.progress)
        candidate = self.folder / "candidate.gguf"
        try:
            threads = self.store.threads
            write_candidate(self.source, plan, candidate, self.encoder, threads)
            reference = reference_file(self.original, self.folder, threads)
            return evaluate(candidate, reference, Chunks(pieces), threads=threads).kld
        finally:
            candidate.unlink(missing_ok=True)
