"""Ways of turning weights into the bytes of a tensor type, one file each, found by scanning.

`by_name(name)` gives a `Method`: `prepare` it with a tensor's statistics, then `quantize` any slice
of its rows. Every method writes standard blocks of the type it is given.
"""

from __future__ import annotations

from functools import cache

from ggq.blocks import BlockType
from ggq.convert.methods._base import Method, Needs, Options, Prepared, Statistics
from ggq.errors import UsageError
from ggq.registry import classes_in

__all__ = [
    "Method",
    "Needs",
    "Options",
    "Prepared",
    "Statistics",
    "all_methods",
    "by_name",
    "covering",
]


@cache
def _registry() -> dict[str, Method]:
    found = classes_in(__name__, __path__, Method, "name")
    return {kind.name: kind() for kind in sorted(found, key=lambda kind: kind.needs)}


def all_methods() -> list[Method]:
    """Every method; those that need less come first."""
    return list(_registry().values())


def by_name(name: str) -> Method:
    """Method of that name. Raises UsageError."""
    try:
        return _registry()[name]
    except KeyError:
        known = ", ".join(_registry())
        raise UsageError(f"method {name!r} is not known; known: {known}") from None


def covering(method: Method, type: BlockType) -> Method:
    """The method itself, or the nearest simpler one that can write the type."""
    while not method.covers(type) and method.simpler:
        method = by_name(method.simpler)
    return method
