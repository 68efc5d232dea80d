"""The frames of ggq.blocks as callable kernels, and numpy arrays around them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.blocks._dequantize import dequantize_kernel
from ggq.blocks._frame import panel_rows, tile_tokens
from ggq.jit import Kernel
from ggq.jit.lang import Value, loop, store

Place = Callable[[str, int], npt.NDArray[np.uint8]]  # (what for, bytes) -> buffer
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
# Kept code is known by ggq's own sources; the kernels of this file need its content in their names.
STAMP = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class FrameKernels:
    """Each a kernel over addresses, in the order of a frame's methods."""

    image: Kernel  # (x, cols, image)
    dot: Kernel  # (weights, row bytes, rows, cols, image, out, repeats)
    pack: Kernel  # (weights, row bytes, cols, panel)
    tile: Kernel  # (x, cols, tile, token)
    multiply: Kernel  # (panel, tile, cols, out f32[tokens][panel rows])

    def all(self) -> list[Kernel]:
        return [self.image, self.dot, self.pack, self.tile, self.multiply]


@cache
def frame_kernels(family: BlockType) -> FrameKernels:
    frame = family.frame()

    def image(x: Value, cols: Value, image: Value) -> None:
        frame.write_image(x, cols, image)

    def dot(
        weights: Value,
        row_bytes: Value,
        rows: Value,
        cols: Value,
        image: Value,
        out: Value,
        repeats: Value,
    ) -> None:
        for _ in loop(repeats):
            for r in loop(rows):
                (dot,) = frame.dot_row(weights + r * row_bytes, cols, [image])
                store(out + r * 4, dot, 4)

    def pack(weights: Value, row_bytes: Value, cols: Value, panel: Value) -> None:
        frame.pack_panel(lambda r: weights + row_bytes * r, cols, panel)

    def tile(x: Value, cols: Value, tile: Value, token: Value) -> None:
        frame.write_tile(x, cols, tile, token)

    def multiply(panel: Value, tile: Value, cols: Value, out: Value) -> None:
        for t, sums in enumerate(frame.multiply(panel, tile, cols)):
            store(out + 4 * panel_rows() * t, sums, 4)

    def made(body: Any, name: str) -> Kernel:
        return Kernel(f"{STAMP}.{body.__name__}.{name}", body, body.__code__.co_argcount)

    # Frames of equal key lay activations out alike, so they share those two.
    return FrameKernels(
        made(image, frame.key),
        made(dot, family.name),
        made(pack, family.name),
        made(tile, frame.key),
        made(multiply, family.name),
    )


def ordinary(name: str, nbytes: int) -> U8:
    """A buffer u8[nbytes] of zeros, 64-byte aligned."""
    buffer = np.zeros(nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + nbytes]


def placed(place: Place, name: str, array: npt.NDArray[Any]) -> U8:
    """The array's bytes in a buffer of that name."""
    buffer = place(name, array.nbytes)
    buffer[:] = np.frombuffer(array.tobytes(), np.uint8)
    return buffer


def dequantize(family: BlockType, rows: U8, place: Place = ordinary) -> F32:
    """u8[R, row_bytes] -> f32[R, C]."""
    weights = placed(place, "weights", rows)
    count = rows.size // family.nbytes * family.weights
    out = place("singles", 4 * count)
    dequantize_kernel(family)(weights.ctypes.data, count, out.ctypes.data)
    return out.view(np.float32).reshape(len(rows), -1).copy()


def matvec(family: BlockType, rows: U8, x: F32, place: Place = ordinary) -> F32:
    """u8[R, row_bytes], f32[C] -> f32[R]."""
    kernels, cols = frame_kernels(family), len(x)
    weights, single = placed(place, "weights", rows), placed(place, "x", x)
    image = place("image", family.frame().image_bytes(cols))
    out = place("out", 4 * len(rows))
    kernels.image(single.ctypes.data, cols, image.ctypes.data)
    kernels.dot(
        weights.ctypes.data,
        rows.shape[1],
        len(rows),
        cols,
        image.ctypes.data,
        out.ctypes.data,
        1,
    )
    return out.view(np.float32).copy()


@cache
def _dots(family: BlockType, count: int) -> Kernel:
    """Kernel(weights, row bytes, rows, cols, images, image bytes, out f32[rows][count])."""
    frame = family.frame()

    def body(
        weights: Value, row_bytes: Value, rows: Value, cols: Value, images: Value, nbytes: Value,
        out: Value,
    ) -> None:  # fmt: skip
        for r in loop(rows):
            each = [images + nbytes * k for k in range(count)]
            for k, dot in enumerate(frame.dot_row(weights + r * row_bytes, cols, each)):
                store(out + (r * count + k) * 4, dot, 4)

    return Kernel(f"{STAMP}.dots.{family.name}.{count}", body, 7)


def matvecs(family: BlockType, rows: U8, x: F32) -> F32:
    """u8[R, row_bytes], f32[T, C] -> f32[R, T], every row unpacked once for all T vectors."""
    (count, cols), nbytes = x.shape, family.frame().image_bytes(x.shape[1])
    images = ordinary("images", nbytes * count)
    for k in range(count):
        single = placed(ordinary, "x", x[k])
        at = images.ctypes.data + nbytes * k
        frame_kernels(family).image(single.ctypes.data, cols, at)
    weights, out = placed(ordinary, "weights", rows), np.zeros((len(rows), count), np.float32)
    _dots(family, count)(
        weights.ctypes.data, rows.shape[1], len(rows), cols, images.ctypes.data, nbytes,
        out.ctypes.data,
    )  # fmt: skip
    return out


def matmat(family: BlockType, rows: U8, x: F32, place: Place = ordinary) -> F32:
    """u8[panel_rows(), row_bytes], f32[T, C] -> f32[panel_rows(), T]."""
    kernels, frame, cols = frame_kernels(family), family.frame(), x.shape[1]
    weights = placed(place, "weights", rows)
    panel = place("panel", frame.panel_bytes(cols))
    kernels.pack(weights.ctypes.data, rows.shape[1], cols, panel.ctypes.data)
    tokens = tile_tokens()
    results = []
    for first in range(0, len(x), tokens):
        tile, out = place("tile", frame.tile_bytes(cols)), place("out", 4 * len(rows) * tokens)
        for t in range(tokens):
            if first + t < len(x):
                token = placed(place, "x", x[first + t])
                kernels.tile(token.ctypes.data, cols, tile.ctypes.data, t)
            else:
                kernels.tile(0, cols, tile.ctypes.data, t)
        kernels.multiply(panel.ctypes.data, tile.ctypes.data, cols, out.ctypes.data)
        results.append(out.view(np.float32).reshape(tokens, len(rows)).copy())
    return np.concatenate(results)[: len(x)].T
