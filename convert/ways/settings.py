"""What the command line asks of a conversion beyond the types of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ggq.convert.alloc.budget import Budget


class Effort(NamedTuple):
    """How much a run spends: tokens of text, sweeps over codes, swaps that are measured."""

    tokens: int
    sampled_tokens: int
    sweeps: int
    swaps: int
    held_out_tokens: int


EFFORTS = {
    "fast": Effort(8_192, 1_024, 1, 0, 4_096),
    "normal": Effort(24_576, 2_048, 3, 6, 8_192),
    "max": Effort(131_072, 8_192, 6, 24, 16_384),
}


@dataclass(frozen=True)
class Settings:
    """Choices of one run. `calib`: files, "builtin" or "self"; `threads` 0: all cores."""

    method: str
    transform: str
    alloc: str
    budget: Budget
    calib: tuple[str, ...]
    calib_tokens: int | None
    effort_name: str
    seed: int
    lattice: bool
    workdir: Path | None
    save_imatrix: Path | None
    threads: int
    progress: bool

    @property
    def effort(self) -> Effort:
        """What the named effort means."""
        return EFFORTS[self.effort_name]

    @property
    def tokens(self) -> int:
        """Tokens of text to run."""
        return self.calib_tokens or self.effort.tokens
