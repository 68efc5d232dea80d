"""Random legal blocks of every type: any bytes, but scales of a sensible size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType

U8 = npt.NDArray[np.uint8]
SCALES = ("d", "dmin", "m", "s")


def legal_rows(family: BlockType, rows: int, cols: int, rng: np.random.Generator) -> U8:
    """u8[rows, row_bytes] whose weights are finite and of similar size."""
    count = rows * cols // family.weights
    if family.weights == 1:
        return _plain(family, count, rng).reshape(rows, -1)
    raw = rng.integers(0, 256, (count, family.nbytes), dtype=np.uint8)
    blocks = raw.view(family.layout)[:, 0]
    sizes = rng.uniform(-0.03, 0.07, count)
    for name in family.layout.names or ():
        if name in SCALES and family.layout[name].kind == "f":
            blocks[name] = np.roll(sizes, SCALES.index(name))
    if family.name == "MXFP4":
        blocks["e"] = rng.integers(120, 130, count)
    if family.name == "IQ1_M":  # the scale's nibbles top four words
        words = blocks["scales"].copy().view("<u2") & 0x0FFF
        half = sizes.astype("<f2").view("<u2")[:, None]
        words |= (half >> np.array([0, 4, 8, 12], "<u2") & 15) << 12
        blocks["scales"] = words.view(np.uint8)
    return raw.reshape(rows, -1)


def _plain(family: BlockType, count: int, rng: np.random.Generator) -> U8:
    x = rng.standard_normal(count)
    if family.name == "BF16":
        return (x.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    dtype = family.layout["x"]
    return (x * 30 if dtype.kind == "i" else x).astype(dtype).view(np.uint8)
