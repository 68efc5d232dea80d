"""Finding what a folder offers: a class registers itself by standing in a file there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any


def classes_in(package: str, path: Iterable[str], base: type, mark: str) -> Iterator[Any]:
    """Subclasses of `base` in the modules of a package that themselves define the attribute `mark`.

    `path` is the package's `__path__`. Modules whose name starts with "_" hold shared parts and are
    passed over. A module that cannot be imported raises: that is not the same as not being there.
    """
    for entry in pkgutil.iter_modules(path):
        if entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{entry.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, base)):
                continue
            if value.__module__ == module.__name__ and mark in vars(value):
                yield value
