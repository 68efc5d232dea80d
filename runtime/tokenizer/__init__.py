"""The tokenizers, one file per algorithm; a file without a leading "_" is one.

An algorithm is found by scanning this folder, so adding one touches no list.
"""

from __future__ import annotations

from functools import cache

from ggq.errors import TokenizerError
from ggq.metadata import Metadata
from ggq.registry import classes_in
from ggq.runtime.tokenizer._base import Tokenizer
from ggq.runtime.tokenizer._stream import TextStream

__all__ = ["TextStream", "Tokenizer", "all_models", "from_metadata"]

MODEL_KEY = "tokenizer.ggml.model"


@cache
def _registry() -> dict[str, type[Tokenizer]]:
    found: dict[str, type[Tokenizer]] = {}
    for kind in classes_in(__name__, __path__, Tokenizer, "models"):
        for model in kind.models:
            if model in found:
                raise RuntimeError(f"two tokenizers claim the model {model!r}")
            found[model] = kind
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
