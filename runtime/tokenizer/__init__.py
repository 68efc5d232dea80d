"""The tokenizers, one file per algorithm; a file without a leading "_" is one.

An algorithm is found by scanning this folder, so adding one touches no list.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.runtime.tokenizer._base import Tokenizer
from ggq.runtime.tokenizer._stream import TextStream

__all__ = ["TextStream", "Tokenizer", "all_models", "from_metadata"]

MODEL_KEY = "tokenizer.ggml.model"


@cache
def _registry() -> dict[str, type[Tokenizer]]:
    found: dict[str, type[Tokenizer]] = {}
    for entry in pkgutil.iter_modules(__path__):
        if entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{entry.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, Tokenizer)):
                continue
            if value.__module__ != module.__name__ or "models" not in vars(value):
                continue
            for model in value.models:
                if model in found:
                    raise RuntimeError(f"two tokenizers claim the model {model!r}")
                found[model] = value
    return dict(sorted(found.items()))


def all_models() -> list[str]:
    """Every known value of `tokenizer.ggml.model`."""
    return list(_registry())


def from_metadata(metadata: Metadata) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises TokenizerError, and MissingKeyError without one."""
    model = metadata.require(MODEL_KEY, str)
    try:
        kind = _registry()[model]
    except KeyError:
        raise TokenizerError(
            f"tokenizer model {model!r} is not implemented; known: {', '.join(_registry())}"
        ) from None
    return kind(metadata)
