"""The architectures, one file each; a file without a leading "_" is one.

An architecture is found by scanning this folder, so adding one touches no list.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ggq.errors import UnsupportedModelError
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
    for entry in pkgutil.iter_modules(__path__):
        if entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{entry.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, Arch)):
                continue
            if value.__module__ != module.__name__ or "name" not in vars(value):
                continue
            if value.name in found:
                raise RuntimeError(f"two architectures claim the name {value.name}")
            found[value.name] = value()
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
