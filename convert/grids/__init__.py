"""Quantized rows as numbers: what a method may choose of each type, read from bytes and written.

A grid is found by scanning this folder: a class with the name of a tensor type is its grid.
"""

from __future__ import annotations

from functools import cache

from ggq.blocks import BlockType
from ggq.convert.grids._grid import Grid, Parts
from ggq.convert.grids.words import WordGrid, WordParts
from ggq.registry import classes_in

__all__ = ["Grid", "Parts", "WordGrid", "WordParts", "grid_of", "word_grid_of"]


@cache
def _registry() -> dict[str, Grid]:
    return {kind.__name__: kind() for kind in classes_in(__name__, __path__, Grid, "planes")}


def grid_of(type: BlockType) -> Grid | None:
    """The grid of a tensor type, None where its codes are not numbers on a line."""
    return _registry().get(type.name)


@cache
def _words() -> dict[str, WordGrid]:
    found = classes_in(__name__, __path__, WordGrid, "codebook")
    return {kind.__name__: kind() for kind in found}


def word_grid_of(type: BlockType) -> WordGrid | None:
    """The grid of a type whose weights are words of a codebook, None for others."""
    return _words().get(type.name)
