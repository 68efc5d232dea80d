"""Speed of the quantizers beside llama.cpp's: python -m tests.bench.bench_quantize [TYPE ...]

Million weights per second on one core, ours and those of llama-quantize's own C code: of a native
build (--native PATH/libggml-base.so), or of the libgguf wheel, whose code is up to twice as slow.
Both get the same weights in the same run, in turns; a figure is the median of the rounds, and so is
the ratio. Time is processor time of the one thread, so that other load disturbs little.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ggq import blocks
from ggq.blocks._quantize import quantize_into
from tests.weight_strategies import F32

U8 = npt.NDArray[np.uint8]
Peer = Callable[[blocks.BlockType, F32, F32 | None, U8], None]

NOT_IN_FILES = ("F64", "F32", "Q8_1", "Q8_K")
COLUMNS = 4096
ONE_THREAD = 8  # rows libgguf quantizes in the calling thread; more of them it shares out


def wheel() -> Peer:
    """The libgguf wheel as the peer."""
    import libgguf

    def quantize(family: blocks.BlockType, x: F32, importance: F32 | None, out: U8) -> None:
        for i in range(0, len(x), ONE_THREAD):
            part, n = slice(i, i + ONE_THREAD), len(x[i : i + ONE_THREAD])
            libgguf.quantize_rows_into_raw(family.id, x[part], out[part], n, COLUMNS, importance)

    return quantize


def native(path: str) -> Peer:
    """A native libggml-base as the peer. Source of the calls: llama.cpp ggml/include/ggml.h."""
    library = ctypes.CDLL(path)
    chunk, init = library.ggml_quantize_chunk, library.ggml_quantize_init
    chunk.restype, init.restype = ctypes.c_size_t, None
    count = ctypes.c_int64

    def quantize(family: blocks.BlockType, x: F32, importance: F32 | None, out: U8) -> None:
        weights = None if importance is None else ctypes.c_void_p(importance.ctypes.data)
        init(family.id)
        chunk(
            family.id, ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data),
            count(0), count(len(x)), count(x.shape[1]), weights,
        )  # fmt: skip

    return quantize


def seconds(run: Callable[[], None], times: int = 1) -> float:
    """Processor seconds of one call, of the average of several."""
    start = time.thread_time()
    for _ in range(times):
        run()
    return (time.thread_time() - start) / times


def measure(
    family: blocks.BlockType, peer: Peer, importance: F32 | None, rows: int, rounds: int
) -> tuple[float, float, float]:
    """(our weights per second, the peer's, ratio), medians."""
    x = np.random.default_rng(0).normal(0, 0.02, (rows, COLUMNS)).astype(np.float32)
    out = np.empty((rows, family.row_bytes(COLUMNS)), np.uint8)

    def ours() -> None:
        quantize_into(family, x, importance, out, threads=1)

    def theirs() -> None:
        peer(family, x, importance, out)

    for run in (ours, theirs):
        run()  # compiled, in the cache
    repeat = max(1, round(seconds(theirs) / seconds(ours)))  # turns of about equal length
    turns = [(seconds(ours, repeat), seconds(theirs)) for _ in range(rounds)]
    mine, its = np.array(turns).T
    return x.size / np.median(mine), x.size / np.median(its), float(np.median(its / mine))


def main() -> None:
    """Print a line for every type, with and without importance."""
    can = [t.name for t in blocks.all_types() if t.can_quantize and t.name not in NOT_IN_FILES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", default=can)
    parser.add_argument("--native", metavar="LIBRARY", help="libggml-base of a native llama.cpp")
    parser.add_argument("--rows", type=int, default=128, help="rows of 4096 weights")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    peer = native(args.native) if args.native else wheel()
    print(f"{'type':8}{'importance':>11}{'ggq':>8}{'llama.cpp':>11}  M weights/s{'ratio':>7}")
    for family in map(blocks.by_name, args.types):
        uneven = np.random.default_rng(1).random(COLUMNS).astype(np.float32)
        for importance in (None, uneven):
            if family.needs_importance if importance is None else not family.uses_importance:
                continue
            ours, theirs, ratio = measure(family, peer, importance, args.rows, args.rounds)
            given = "no" if importance is None else "yes"
            print(
                f"{family.name:8}{given:>11}{ours / 1e6:8.0f}{theirs / 1e6:11.1f}{ratio:20.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
