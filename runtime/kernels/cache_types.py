"""The types a KV cache can have, by llama.cpp's names."""

from __future__ import annotations

from ggq.errors import UsageError
from ggq.runtime.kernels.cache import CacheType
from ggq.runtime.kernels.cache_blocks import EightBits, FourBits
from ggq.runtime.kernels.cache_floats import BF16, F16, F32

TYPES: dict[str, CacheType] = {t.name: t for t in (F32(), F16(), BF16(), EightBits(), FourBits())}


def by_name(name: str, dims: int) -> CacheType:
    """The cache type of a name, for heads of `dims`. Raises UsageError."""
    if name not in TYPES:
        raise UsageError(f"no KV cache type {name!r}; there are {', '.join(TYPES)}")
    found = TYPES[name]
    if dims % found.step:
        raise UsageError(
            f"KV cache type {name} needs heads of a multiple of {found.step} dimensions, "
            f"these have {dims}; use f16"
        )
    return found
