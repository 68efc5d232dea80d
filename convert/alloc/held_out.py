"""Text nothing was calibrated with, and how far candidates are from the model as it was on it."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggq.convert.eval import Chunks, Divergences
from ggq.convert.eval.evaluate import compare_chunks
from ggq.convert.eval.sources import identity, opened
from ggq.convert.eval.state_base import StateBase, StateBaseWriter
from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.reference_file import reference_file, write_candidate
from ggq.convert.writing.encoders import Encoder
from ggq.convert.writing.progress import Share

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

CHOOSING, DECIDING = 0, 1  # half that chooses among many, and the one such choices cannot flatter


@dataclass(frozen=True)
class HeldOut:
    """`tokens` i32[n, context]: every other piece belongs to one half.

    What `original` says of them is computed once and kept in `folder`.
    """

    folder: Path
    original: Source
    tokens: I32
    threads: int
    progress: bool

    def divergences(
        self,
        source: Source,
        plan: Plan,
        encoder: Encoder,
        half: int,
        imatrix: Imatrix | None = None,
    ) -> F64:
        """f64[tokens of a half], nats: KL divergence of what a plan makes of `source`."""
        candidate = self.folder / "candidate.gguf"
        try:
            write_candidate(source, plan, candidate, encoder, self.threads, imatrix)
            with (
                closing(StateBase(self._base(), self.threads)) as base,
                opened(candidate, threads=self.threads) as model,
            ):
                text = base.texts[half]
                numbers = range(len(text))
                found = compare_chunks(base, [model], text, numbers, self.threads)
                return Divergences.of([part for (part,) in found]).kld
        finally:
            candidate.unlink(missing_ok=True)

    def _base(self) -> Path:
        digest = hashlib.sha256(np.ascontiguousarray(self.tokens).tobytes())
        digest.update("\n".join(map(identity, self.original.files)).encode())
        path = self.folder / f"held-out-{digest.hexdigest()[:16]}.gguf"
        if path.exists():
            return path
        texts = [Chunks(self.tokens[half::2], domain=f"half {half}") for half in (0, 1)]
        file = reference_file(self.original, self.folder, self.threads)
        share, done = Share("reading text held out", self.progress), 0
        with (
            opened(file, threads=self.threads) as reference,
            StateBaseWriter(path, texts, reference) as record,
        ):
            for text in texts:
                numbers = range(len(text))
                for _ in compare_chunks(reference, [], text, numbers, self.threads, record):
                    done += 1
                    share(done / len(self.tokens))
        return path
