"""Speed of the quantizers beside llama.cpp's: python -m tests.bench.bench_quantize [TYPE ...]

Million weights per second on one core, ours and libgguf's, which is llama-quantize's own C code; a
native build of llama.cpp runs it up to twice as fast as the wheel (Q4_K 15 M, Q6_K 35 M, Q4_0 970 M
where the wheel makes 8.5 M, 15 M, 900 M). Both get the same weights in the same run, in turns; a
figure is the median of the rounds, and so is the ratio. Time is processor time of the one thread,
so that other load disturbs little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import libgguf
import numpy as np

from ggq import blocks
from tests.weight_strategies import F32

# The seven types of the speed goal first.
TYPES = (
    "Q4_K Q5_K Q6_K Q2_K Q3_K Q4_0 Q8_0 Q4_1 Q5_0 Q5_1 IQ4_NL IQ4_XS TQ1_0 TQ2_0 Q1_0 MXFP4 NVFP4 "
    "F16 BF16"
).split()
COLUMNS = 4096
ONE_THREAD = 8  # rows libgguf quantizes in the calling thread; more of them it shares out


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def measure(
    family: blocks.BlockType, importance: F32 | None, rows: int, rounds: int
) -> tuple[float, float, float]:
    """(our weights per second, libgguf's, ratio), medians."""
    x = np.random.default_rng(0).normal(0, 0.02, (rows, COLUMNS)).astype(np.float32)
    out = np.empty((rows, family.row_bytes(COLUMNS)), np.uint8)

    def ours() -> None:
        family.quantize(x, importance, threads=1)

    def theirs() -> None:
        for i in range(0, rows, ONE_THREAD):
            part, n = slice(i, i + ONE_THREAD), len(x[i : i + ONE_THREAD])
            libgguf.quantize_rows_into_raw(family.id, x[part], out[part], n, COLUMNS, importance)

    ours(), theirs()  # compiled, in the cache
    repeat = max(1, round(seconds(theirs) / seconds(ours)))  # turns of about equal length
    turns = [
        (seconds(lambda: [ours() for _ in range(repeat)]) / repeat, seconds(theirs))
        for _ in range(rounds)
    ]
    mine, its = np.array(turns).T
    return x.size / np.median(mine), x.size / np.median(its), float(np.median(its / mine))


def main() -> None:
    """Print a line for every type, with and without importance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", default=TYPES)
    parser.add_argument("--rows", type=int, default=128, help="rows of 4096 weights")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{'type':8}{'importance':>11}{'ggq':>8}{'libgguf':>9}  M weights/s{'ratio':>7}")
    for family in map(blocks.by_name, args.types):
        uneven = np.random.default_rng(1).random(COLUMNS).astype(np.float32)
        for importance in (None, uneven) if family.uses_importance else (None,):
            ours, theirs, ratio = measure(family, importance, args.rows, args.rounds)
            given = "no" if importance is None else "yes"
            print(
                f"{family.name:8}{given:>11}{ours / 1e6:8.0f}{theirs / 1e6:9.1f}{ratio:20.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
