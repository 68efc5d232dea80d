"""Choosing the next token: llama.cpp's default chain, in its order and with its defaults.

    logit bias -> penalties -> top-k -> top-p -> min-p -> temperature -> draw

Facts: llama.cpp common/common.h `common_params_sampling`, src/llama-sampler.cpp. A temperature of
zero or less takes the most likely token of what the penalties leave. The random numbers are ours:
the same seed gives the same text here, not the same text as there.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ggq.errors import FormatError
from ggq.runtime.sampler_params import SamplerParams

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

# Logits per group when the largest are looked for; any value gives the same result.
_GROUP = 256


class Sampler:
    """The chain with its memory: what was accepted, and the random stream."""

    def __init__(self, params: SamplerParams | None = None) -> None:
        self.params = params or SamplerParams()
        self.seed = self.params.seed if self.params.seed >= 0 else _random_seed()
        last_n = self.params.repeat_last_n
        self._recent: deque[int] = deque(maxlen=last_n if last_n >= 0 else None)

    def accept(self, token: int) -> None:
        """Remember a token of the prompt or of the answer for the penalties."""
        self._recent.append(token)

    def sample(self, logits: Logits) -> int:
        """logits[V] f32 -> the next token. Raises FormatError when no logit is usable."""
        ids, weights = self.candidates(logits)
        if self.params.temp <= 0:
            return int(ids[0])
        cumulative = np.cumsum(weights)
        drawn = np.searchsorted(cumulative, self._uniform() * cumulative[-1])
        return int(ids[min(drawn, len(ids) - 1)])

    def candidates(self, logits: Logits) -> tuple[Ids, npt.NDArray[np.float64]]:
        """logits[V] f32 -> (tokens still in the running, likeliest first, their probabilities)."""
        p = self.params
        x = penalized(biased(logits, p.logit_bias), self._recent, p)
        if not np.isfinite(x.max()):
            raise FormatError(f"the model's best logit is {x.max()}; its weights are damaged")
        ids = top_k(x, 1 if p.temp <= 0 else p.top_k)
        best: npt.NDArray[np.float64] = x[ids].astype(np.float64)
        keep = top_p(best, p.top_p)
        keep = min(keep, min_p(best[:keep], p.min_p))
        return ids[:keep], softmax(best[:keep] / (p.temp if p.temp > 0 else 1))

    @cached_property
    def _stream(self) -> np.random.PCG64:
        return np.random.PCG64(self.seed)  # slow to import, and greedy sampling does without

    def _uniform(self) -> float:
        # The words of PCG64 are guaranteed for ever, unlike the floats numpy makes of them.
        return float(int(self._stream.random_raw()) >> 11) * 2.0**-53


def _random_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


def biased(logits: Logits, bias: Mapping[int, float]) -> Logits:
    """logits[V] f32 with `bias` added to the tokens it names."""
    if not bias:
        return logits
    x = logits.copy()
    x[list(bias)] += np.fromiter(bias.values(), np.float32)
    return x


def penalized(logits: Logits, recent: deque[int], params: SamplerParams) -> Logits:
    """logits[V] f32 with recent tokens made less likely.

    A repeated token's logit is divided by the repeat penalty (multiplied when negative), then
    loses count x frequency penalty + presence penalty.
    """
    idle = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty) == (1, 0, 0)
    if idle or not recent:
        return logits
    counts = Counter(recent)
    ids = np.fromiter(counts, np.int64)
    times = np.fromiter(counts.values(), np.float32)
    x = logits.copy()
    seen = x[ids]
    penalty = np.float32(params.repeat_penalty)
    seen = np.where(seen <= 0, seen * penalty, seen / penalty)
    x[ids] = seen - (times * params.frequency_penalty + params.presence_penalty)
    return x


def top_k(x: Logits, k: int) -> Ids:
    """x[V] f32 -> tokens of the k largest values, largest first, ties by number; k <= 0: all."""
    if k == 1:
        return np.array([x.argmax()])
    groups = -(-len(x) // _GROUP)
    candidates = np.arange(len(x))
    if 0 < k < groups:
        # k groups have a best value no smaller than this, so the k largest are among the rest
        best = np.maximum.reduceat(x, np.arange(0, len(x), _GROUP))
        candidates = np.flatnonzero(x >= np.partition(best, groups - k)[groups - k])
    order = candidates[np.argsort(-x[candidates], kind="stable")]
    return order[:k] if k > 0 else order


def top_p(x: npt.NDArray[np.float64], p: float) -> int:
    """x[N] f64, largest first -> how many of the first together reach the probability p."""
    if p >= 1:
        return len(x)
    return min(int(np.searchsorted(np.cumsum(softmax(x)), p)) + 1, len(x))


def min_p(x: npt.NDArray[np.float64], p: float) -> int:
    """x[N] f64, largest first -> how many have at least p times the first one's probability."""
    if p <= 0:
        return len(x)
    return max(1, int(np.count_nonzero(x >= x[0] + math.log(p))))


def softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """x[N] f64 -> probabilities."""
    weights = np.exp(x - x.max())
    result: npt.NDArray[np.float64] = weights / weights.sum()
    return result
