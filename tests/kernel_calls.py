"""Kernels of one test: traced, compiled and called under a name of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.jit import Kernel

Array = npt.NDArray[Any]
_numbers = itertools.count()


def fresh_kernel(body: Callable[..., None], n_args: int) -> Kernel:
    """A kernel whose name no other has."""
    return Kernel(f"once.{next(_numbers)}", body, n_args)


def address(x: Array | int) -> int:
    """An array's address; numbers as they are."""
    return x if isinstance(x, int) else x.ctypes.data


def call(body: Callable[..., None], *args: Array | int) -> None:
    """Compile `body` and call it with arrays and numbers."""
    fresh_kernel(body, len(args))(*(address(x) for x in args))


def filled(dtype: npt.DTypeLike, count: int) -> Array:
    """An array to write results into."""
    return np.zeros(count, dtype)
