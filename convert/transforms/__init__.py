"""The transforms, one file each; a file without a leading "_" is one.

A transform changes float weights so that the model computes what it did, but quantizes better.
Any GGUF program runs the result. They are found by scanning this folder.
"""

from __future__ import annotations

from functools import cache

from ggq.convert.transforms._base import Transform, Types, source_channels
from ggq.convert.transforms._fold import Fold, ordered, scaled
from ggq.errors import UsageError
from ggq.registry import classes_in

__all__ = [
    "Fold",
    "Transform",
    "Types",
    "all_transforms",
    "by_name",
    "ordered",
    "scaled",
    "source_channels",
]


@cache
def _registry() -> dict[str, Transform]:
    found: dict[str, Transform] = {}
    for kind in classes_in(__name__, __path__, Transform, "name"):
        if kind.name in found:
            raise RuntimeError(f"two transforms claim the name {kind.name}")
        found[kind.name] = kind()
    return dict(sorted(found.items()))


def all_transforms() -> list[Transform]:
    """Every transform by name."""
    return list(_registry().values())


def by_name(name: str) -> Transform:
    """A transform by its name on the command line. Raises UsageError."""
    try:
        return _registry()[name.lower()]
    except KeyError:
        known = ", ".join(_registry())
        raise UsageError(f"there is no transform {name!r}; known: none, {known}") from None
