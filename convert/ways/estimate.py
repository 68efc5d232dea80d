"""How long a calibrated conversion will take, from the model's size and what this machine does."""

from __future__ import annotations

import time

import numpy as np

from ggq.convert.methods import Needs, by_name
from ggq.convert.mixtures.plan import Plan
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.settings import Settings
from ggq.convert.writing.pipeline import available_threads

PROBE = 768  # size of the matrix product that is timed
PROBES = 12  # times, in processor time: others may be at work
# Products of the model's size a token: forward, backward and again forward, sums for Hessians.
FORWARD, WITH_GRADIENTS = 2.0, 6.0
MEASURED_SHARE = 0.5  # of the probe's speed that calibration reaches
CODES_PER_SECOND = 1.7e6  # weights a core rounds with error feedback
WHOLE_ROUNDS = 2.0  # of a method whose rows help each other
SEARCHES = {"none": 0.0, "permute": 0.1, "smooth": 0.1, "awq": 0.4, "auto": 8.0}
TABLE_ROUNDS = 1.0  # a sample of rows of every tensor in every type
SWAPPED = 0.2  # of the model is made anew for a swap
MEASURED_TOKENS_PER_GIGA = 60  # tokens a second and core, times 1e9 weights, that are evaluated


def estimate_seconds(wishes: Settings, source: Source, plan: Plan) -> float:
    """Seconds a run is likely to take; within a factor of two."""
    threads = wishes.threads or available_threads()
    weights = sum(tensor.n_weights for tensor in plan.tensors if len(tensor.shape) > 1)
    columns = max(tensor.shape[-1] for tensor in plan.tensors)
    guided = by_name(wishes.method).needs == Needs.GRADIENTS or wishes.alloc == "fisher"
    per_weight = WITH_GRADIENTS if guided else FORWARD
    layers = max(1, weights // max(1, 12 * columns * columns))
    hessians = 2.0 * layers * 7 * columns * columns * (2 if guided else 1)
    calibrating = wishes.tokens * (per_weight * weights + hessians)
    seconds = calibrating / (MEASURED_SHARE * _products_per_second(threads))
    rounds = WHOLE_ROUNDS if by_name(wishes.method).whole else 1.0
    measured = 0.0
    if wishes.alloc == "fisher":
        rounds += TABLE_ROUNDS + SWAPPED * rounds * wishes.effort.swaps
        measured += wishes.effort.held_out_tokens / 2 * (wishes.effort.swaps + 5)
    rounds += SEARCHES[wishes.transform]
    if wishes.transform == "auto":
        measured += wishes.effort.held_out_tokens / 2 * 9
    seconds += rounds * weights / (CODES_PER_SECOND * threads)
    seconds += measured * weights / 1e9 / (MEASURED_TOKENS_PER_GIGA * threads)
    return seconds


def _products_per_second(threads: int) -> float:
    """Floating-point operations this machine's matrix products reach when nothing else runs."""
    x = np.ones((PROBE, PROBE), np.float32)
    fastest = float("inf")
    for _ in range(PROBES):
        begin = time.process_time()
        x @ x
        fastest = min(fastest, time.process_time() - begin)
    return 2 * PROBE**3 * threads / max(fastest, 1e-9)
