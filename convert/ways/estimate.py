"""How long a calibrated conversion will take, from the model's size and what this machine does."""

from __future__ import annotations

import time

import numpy as np

from ggq.convert.mixtures.plan import Plan
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.settings import Settings
from ggq.convert.writing.pipeline import available_threads

PROBE = 768  # size of the matrix product that is timed
# Products of the model's size a token: forward, backward and again forward, sums for Hessians.
FORWARD, WITH_GRADIENTS = 2.0, 6.0
MEASURED_SHARE = 0.45  # of the probe's speed that calibration reaches
CODES_PER_SECOND = 1.3e6  # weights a core rounds with error feedback
TABLE_ROUNDS = 1.5  # a table of costs takes as much rounding as so many whole models
MEASURED_TOKENS_PER_GIGA = 600  # tokens a second and core, times 1e9 weights, that are evaluated


def estimate_seconds(wishes: Settings, source: Source, plan: Plan) -> float:
    """Seconds a run is likely to take; within a factor of two."""
    threads = wishes.threads or available_threads()
    weights = sum(tensor.n_weights for tensor in plan.tensors if len(tensor.shape) > 1)
    columns = max(tensor.shape[-1] for tensor in plan.tensors)
    guided = wishes.method == "guided" or wishes.alloc == "fisher"
    per_weight = WITH_GRADIENTS if guided else FORWARD
    layers = max(1, weights // max(1, 12 * columns * columns))
    hessians = 2.0 * layers * 7 * columns * columns * (2 if guided else 1)
    calibrating = wishes.tokens * (per_weight * weights + hessians)
    seconds = calibrating / (MEASURED_SHARE * _products_per_second(threads))
    rounds = (1 + TABLE_ROUNDS + 0.5) if wishes.alloc == "fisher" else 1.0
    seconds += rounds * weights / (CODES_PER_SECOND * threads)
    if wishes.alloc == "fisher":
        measured = wishes.effort.held_out_tokens / 2 * (wishes.effort.swaps + 3)
        seconds += measured * weights / 1e9 / (MEASURED_TOKENS_PER_GIGA * threads / 2)
    return seconds


def _products_per_second(threads: int) -> float:
    """Floating-point operations this machine's matrix products reach."""
    x = np.ones((PROBE, PROBE), np.float32)
    x @ x
    begin = time.perf_counter()
    for _ in range(4):
        x @ x
    return 4 * 2 * PROBE**3 / (time.perf_counter() - begin)
