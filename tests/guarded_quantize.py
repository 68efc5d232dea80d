"""Every quantizer between guard pages: python -m tests.guarded_quantize

Weights, importance and blocks each lie once flush before a page that faults when touched, and once
flush behind one. A line is printed before each case: after a fault the last one tells which.
"""

from __future__ import annotations

import numpy as np

from ggq.blocks import BlockType, all_types
from ggq.blocks._quantize import quantize_into
from tests.guarded_run import Guarded


def check(family: BlockType, shape: tuple[int, int], weighted: bool, place: Guarded) -> None:
    """Quantize in guarded buffers; the same bytes must come out as elsewhere."""
    rows, cols = shape
    rng = np.random.default_rng(rows * cols)
    x = place("x", 4 * rows * cols).view(np.float32).reshape(shape)
    x[:] = rng.standard_normal(shape)
    importance = place("importance", 4 * cols).view(np.float32) if weighted else None
    if importance is not None:
        importance[:] = rng.random(cols)
    out = place("out", rows * family.row_bytes(cols)).reshape(rows, -1)
    quantize_into(family, x, importance, out, threads=1)
    assert np.array_equal(out, family.quantize(x.copy(), importance))


def main() -> None:
    """All types, a whole number of vectors of blocks and not."""
    places = [Guarded(at_end=True), Guarded(at_end=False)]
    for family in all_types():
        if not family.can_quantize:
            continue
        for shape in ((1, family.weights), (3, 5 * family.weights), (16, 2 * family.weights)):
            for weighted in {family.needs_importance, family.uses_importance}:
                for place in places:
                    print(f"{family}, {shape}, importance: {weighted}", flush=True)
                    check(family, shape, weighted, place)
    print("done", flush=True)


if __name__ == "__main__":
    main()
