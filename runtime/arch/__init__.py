"""The architectures, one file each; a file without a leading "_" is one.

An architecture is found by scanning this folder, so adding one touches no list.
"""

from __future__ import annotations

from functools import cache

from ggq.errors import UnsupportedModelError
from ggq.registry import classes_in
from ggq.runtime.arch._base import Arch, HParams, RopeScaling, TensorRule, Transform, check_tensors

__all__ = [
    "Arch",
    "HParams",
    "RopeScaling",
    "TensorRule",
    "Transform",
    "all_archs",
    "by_hf",
    "by_name",
    "check_tensors",
]


@cache
def _registry() -> dict[str, Arch]:
    found: dict[str, Arch] = {}
    for kind in classes_in(__name__, __path__, Arch, "name"):
        if kind.name in found:
            raise RuntimeError(f"two architectures claim the name {kind.name}")
        found[kind.name] = kind()
    return dict(sorted(found.items()))


@cache
def _classes() -> dict[str, Arch]:
    return {name: arch for arch in all_archs() for name in arch.hf}


def all_archs() -> list[Arch]:
    """Every known architecture by name."""
    return list(_registry().values())


def by_name(name: str) -> Arch:
    """Architecture by `general.architecture`. Raises UnsupportedModelError."""
    try:
        return _registry()[name]
    except KeyError:
        known = ", ".join(_registry())
        raise UnsupportedModelError(
            f"architecture {name!r} is not implemented; known: {known}"
        ) from None


def by_hf(class_name: str) -> Arch:
    """Architecture by the class name in config.json. Raises UnsupportedModelError."""
    try:
        return _classes()[class_name]
    except KeyError:
        known = ", ".join(_classes())
        raise UnsupportedModelError(
            f"config.json: model class {class_name!r} is not implemented; known: {known}"
        ) from None
