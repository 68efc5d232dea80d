"""Hypothesis strategies: weights and importance a quantizer must turn into the oracle's bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from ggq.blocks import BlockType

F32 = npt.NDArray[np.float32]
_Make = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.floating]]


def _normal(scale: float) -> _Make:
    return lambda rng, shape: rng.standard_normal(shape) * scale


def _bf16(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    bits = rng.standard_normal(shape).astype(np.float32).view(np.uint32) & 0xFFFF0000
    return bits.view(np.float32)


def _outliers(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    x = rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.02, 1000 * x, x)


def _sparse(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    return np.where(rng.random(shape) < 0.05, rng.standard_normal(shape), 0)


def _spread(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    return np.clip(rng.standard_normal(shape) * np.exp(rng.normal(0, 8, shape)), -3e4, 3e4)


def _offset(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    return rng.normal(0, 30) + rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 0)


# Kind -> weights of it; all of a size whose scales every type can store.
KINDS: dict[str, _Make] = {
    "random": _normal(1.0),
    "bf16": _bf16,
    "zero": lambda rng, shape: np.zeros(shape),
    "constant": lambda rng, shape: np.full(shape, rng.standard_normal()),
    "subnormal": _normal(1e-40),
    "nearly subnormal": _normal(3e-38),
    "near the smallest group": _normal(3e-15),
    "tiny": _normal(1e-6),
    "outliers": _outliers,
    "large": _normal(3e3),
    "offset": _offset,
    "sparse": _sparse,
    "few levels": lambda rng, shape: np.round(rng.standard_normal(shape) * 2) / 4,
    "zeros of both signs": lambda rng, shape: rng.choice(
        [0.0, -0.0, 0.5], shape, p=[0.5, 0.45, 0.05]
    ),
    "one sign": lambda rng, shape: rng.choice([-1, 1]) * abs(rng.standard_normal(shape)),
    "spread": _spread,
}
_few_numbers = st.lists(
    st.floats(-1e4, 1e4, width=32, allow_subnormal=True), min_size=1, max_size=6
)


@st.composite
def weights(draw: st.DrawFn, family: BlockType) -> F32:
    """f32[R, C]: 1 to 48 blocks of one kind, or of a few arbitrary numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 6))
    columns = draw(st.integers(1, 8)) * max(family.weights, 32)
    kind = draw(st.sampled_from(["arbitrary", *KINDS]))
    if kind == "arbitrary":
        return rng.choice(np.array(draw(_few_numbers), np.float32), (rows, columns))
    return KINDS[kind](rng, (rows, columns)).astype(np.float32)


@st.composite
def importances(draw: st.DrawFn, columns: int) -> F32:
    """f32[C], not negative: even, uneven, with zeros, or wildly different."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["even", "uneven", "holes", "wild", "zero"]))
    uneven = rng.random(columns) ** 4
    x = {
        "even": np.ones(columns),
        "uneven": uneven,
        "holes": np.where(rng.random(columns) < 0.4, 0, uneven),
        "wild": np.exp(rng.normal(0, 10, columns)),
        "zero": np.zeros(columns),
    }[kind]
    return x.astype(np.float32)
