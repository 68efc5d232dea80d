"""Settings of the sampler chain; a module of its own so that --help needs no numpy.

Facts: llama.cpp common/common.h `common_params_sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ggq.errors import UsageError


@dataclass(frozen=True)
class SamplerParams:
    """Settings of the chain; names and defaults as llama.cpp's flags have them.

    `seed` -1 draws one. `top_k` <= 0, `top_p` >= 1, `min_p` <= 0 and `repeat_penalty` 1 switch the
    step off. `repeat_last_n` counts the tokens the penalties look back on; -1 is all of them.
    `logit_bias` is added to the logits of the tokens it names.
    """

    seed: int = -1
    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UsageError on a value no chain can work with."""
        for name in ("temp", "top_p", "min_p", "frequency_penalty", "presence_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be finite")
        if not (self.repeat_penalty > 0 and math.isfinite(self.repeat_penalty)):
            raise UsageError(f"repeat_penalty is {self.repeat_penalty}; it must be above 0")
