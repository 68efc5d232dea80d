"""The tensor types of GGUF, one file per family; a file without a leading "_" is a family.

A family is found by scanning this folder, so adding one touches no list.
"""

from __future__ import annotations

from functools import cache

from ggq.blocks._base import BlockType
from ggq.errors import UnknownTypeError
from ggq.registry import classes_in

__all__ = ["BlockType", "all_types", "by_id", "by_name"]


@cache
def _registry() -> dict[int, BlockType]:
    found: dict[int, BlockType] = {}
    for kind in classes_in(__name__, __path__, BlockType, "id"):
        if kind.id in found:
            raise RuntimeError(f"{kind.__name__} and {found[kind.id]} both claim {kind.id}")
        found[kind.id] = kind()
    return dict(sorted(found.items()))


@cache
def _names() -> dict[str, BlockType]:
    return {block.name: block for block in _registry().values()}


def all_types() -> list[BlockType]:
    """Every known tensor type in the order of ggml's numbers."""
    return list(_registry().values())


def by_id(number: int) -> BlockType:
    """Tensor type with ggml's number. Raises UnknownTypeError."""
    try:
        return _registry()[number]
    except KeyError:
        known = ", ".join(f"{i} {block}" for i, block in _registry().items())
        raise UnknownTypeError(f"tensor type {number} is not known; known: {known}") from None


def by_name(name: str) -> BlockType:
    """Tensor type by ggml's name, in any case. Raises UnknownTypeError."""
    try:
        return _names()[name.upper()]
    except KeyError:
        known = ", ".join(_names())
        raise UnknownTypeError(f"tensor type {name!r} is not known; known: {known}") from None
