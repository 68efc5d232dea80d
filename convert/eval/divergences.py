"""What was measured of one file on one text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ggq.convert.eval.compare import Compared

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Divergences:
    """f64 [n] over the scored tokens of all chunks, in nats; `chunk` i32 [n], `same_top` bool [n].

    `nll` and `reference_nll`: minus the log-probability of the text's token; `kld`:
    KL(reference || file); `delta_p`: probability of the text's token, file minus reference.
    """

    chunk: npt.NDArray[np.int32]
    nll: F64
    reference_nll: F64
    kld: F64
    delta_p: F64
    same_top: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, parts: Sequence[Compared]) -> Divergences:
        """From one part per chunk."""
        joined = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(parts[0])
        }
        numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.kld) for p in parts])
        return cls(numbers, **joined)

    @classmethod
    def joined(cls, texts: Sequence[Divergences]) -> Divergences:
        """Several texts as one: their chunks are numbered on."""
        named = {
            f.name: np.concatenate([getattr(t, f.name) for t in texts]) for f in fields(Compared)
        }
        begins = np.cumsum([0, *(t.chunk.max() + 1 for t in texts[:-1])])
        chunk = [t.chunk + begin for t, begin in zip(texts, begins, strict=True)]
        return cls(np.concatenate(chunk).astype(np.int32), **named)

    def __len__(self) -> int:
        return len(self.nll)

    @property
    def mean_kld(self) -> float:
        """Mean over the tokens."""
        return float(self.kld.mean())

    @property
    def perplexity(self) -> float:
        """e^(mean nll)."""
        return float(np.exp(self.nll.mean()))

    @property
    def reference_perplexity(self) -> float:
        """The reference's."""
        return float(np.exp(self.reference_nll.mean()))
