"""Blocks of one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and the table types IQ4_NL and IQ4_XS."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggq.blocks.iq4 import VALUES
from ggq.convert.grids._grid import Grid, Plane


class Q4_0(Grid):
    """w = d * level"""

    group = 32
    levels = tuple(range(-8, 8))
    planes = (Plane("qs", 4, 16),)


class Q4_1(Grid):
    """w = d * level + m"""

    group = 32
    levels = tuple(range(16))
    planes = (Plane("qs", 4, 16),)
    dmin_field = "m"


class Q5_0(Grid):
    """w = d * level"""

    group = 32
    levels = tuple(range(-16, 16))
    planes = (Plane("qs", 4, 16), Plane("qh", 1, 1))


class Q5_1(Grid):
    """w = d * level + m"""

    group = 32
    levels = tuple(range(32))
    planes = (Plane("qs", 4, 16), Plane("qh", 1, 1))
    dmin_field = "m"


class Q8_0(Grid):
    """w = d * level"""

    group = 32
    levels = tuple(range(-128, 128))
    planes = (Plane("qs", 8, 32),)

    def _codes(self, blocks: Any) -> Any:
        return blocks["qs"].view(np.uint8) ^ np.uint8(128)

    def _put_codes(self, blocks: Any, codes: Any) -> None:
        blocks["qs"] = (codes ^ np.uint8(128)).view(np.int8)


class IQ4_NL(Grid):
    """w = d * level"""

    group = 32
    levels = VALUES
    planes = (Plane("qs", 4, 16),)


class IQ4_XS(Grid):
    """w = d * scale * level"""

    group = 32
    levels = VALUES
    planes = (Plane("qs", 4, 16),)
    scale_range = (-32, 31)

    def read_scales(self, blocks: Any) -> tuple[Any, Any]:
        low = blocks["scales_l"][..., None] >> np.array([0, 4], np.uint8) & 15
        high = blocks["scales_h"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
        return (low.reshape(high.shape) | high << 4).astype(np.int16) - 32, None

    def write_scales(self, blocks: Any, scales: Any, minima: Any) -> None:
        six = (scales + 32).astype(np.uint16)
        pairs = six.reshape(*six.shape[:-1], 4, 2) & 15
        blocks["scales_l"] = pairs[..., 0] | pairs[..., 1] << 4
        blocks["scales_h"] = (six >> 4 << np.arange(0, 16, 2, dtype=np.uint16)).sum(
            axis=-1, dtype=np.uint16
        )
