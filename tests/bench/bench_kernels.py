"""Speed of every tensor type on one core: python -m tests.bench.bench_kernels [TYPE ...]

matvec: GB/s of weight bytes over a matrix of 64 KB, so that memory does not count.
pack: GB/s of weight bytes. matmat: GOPS (2 per weight and token) of packing and multiplying by 512
tokens. compile: seconds for the five kernels, when they were not kept. Best of several runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache

import numpy as np

from ggq import blocks
from ggq.blocks._frame import panel_rows, tile_tokens
from ggq.jit import Kernel, prepare
from ggq.jit.lang import Value, loop, store
from tests.block_data import legal_rows
from tests.frame_kernels import STAMP, frame_kernels, ordinary

TOKENS = 512


def best(run: Callable[[], object], seconds: float = 0.3) -> float:
    """Seconds of the fastest call."""
    fastest, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return float(fastest)


@cache
def _multiply_tiles(family: blocks.BlockType) -> Kernel:
    """Kernel(panel, tiles address, tile bytes, tiles, cols, out)."""
    frame = family.frame()

    def body(
        panel: Value, tiles: Value, tile_bytes: Value, count: Value, cols: Value, out: Value
    ) -> None:
        for k in loop(count):
            for t, sums in enumerate(frame.multiply(panel, tiles + k * tile_bytes, cols)):
                store(out + 4 * panel_rows() * t, sums, 4)

    return Kernel(f"{STAMP}.multiply_tiles.{family.name}", body, 6)


def measure(family: blocks.BlockType, cols: int) -> tuple[float, float, float, float]:
    """(matvec GB/s, pack GB/s, matmat GOPS, seconds to compile)."""
    rng = np.random.default_rng(0)
    kernels, frame = frame_kernels(family), family.frame()
    start = time.perf_counter()
    prepare([*kernels.all(), _multiply_tiles(family)])
    compiled = time.perf_counter() - start

    n_rows, n_tokens, row_bytes = panel_rows(), tile_tokens(), family.row_bytes(cols)
    rows = max(n_rows, (1 << 16) // row_bytes // n_rows * n_rows)
    weights = legal_rows(family, rows, cols, rng)
    x = rng.standard_normal((n_tokens, cols)).astype(np.float32)
    image = ordinary("", frame.image_bytes(cols))
    out = np.zeros((n_tokens, max(rows, n_rows)), np.float32)
    kernels.image(x.ctypes.data, cols, image.ctypes.data)
    repeats = max(1, (1 << 24) // weights.nbytes)
    w, im, o = weights.ctypes.data, image.ctypes.data, out.ctypes.data
    matvec = best(lambda: kernels.dot(w, row_bytes, rows, cols, im, o, repeats)) / repeats

    tile_bytes, tiles = frame.tile_bytes(cols), TOKENS // n_tokens
    tile, panel = ordinary("", tile_bytes * tiles), ordinary("", frame.panel_bytes(cols))
    for k in range(tiles):
        for t in range(n_tokens):
            kernels.tile(x[t].ctypes.data, cols, tile.ctypes.data + k * tile_bytes, t)
    p, ti = panel.ctypes.data, tile.ctypes.data
    pack = best(lambda: kernels.pack(w, row_bytes, cols, p))

    many = _multiply_tiles(family)
    matmat = best(lambda: many(p, ti, tile_bytes, tiles, cols, o)) + pack
    panel_weights = n_rows * cols
    return (
        weights.nbytes / matvec / 1e9,
        n_rows * row_bytes / pack / 1e9,
        2 * panel_weights * TOKENS / matmat / 1e9,
        compiled,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", default=[t.name for t in blocks.all_types()])
    parser.add_argument("--cols", type=int, default=2048)
    args = parser.parse_args()
    print(f"{'type':8} {'matvec GB/s':>12} {'pack GB/s':>10} {'matmat GOPS':>12} {'compile s':>10}")
    for name in args.types:
        values = measure(blocks.by_name(name), args.cols)
        print("{:8} {:12.1f} {:10.1f} {:12.0f} {:10.2f}".format(name, *values), flush=True)


if __name__ == "__main__":
    main()
