"""ggq: the GGUF toolkit in pure Python."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggq import errors
    from ggq.metadata import Metadata
    from ggq.reader import Reader, Tensor
    from ggq.runtime.model import load
    from ggq.shards import Split
    from ggq.spec import TensorInfo, ValueType
    from ggq.strings import StringArray
    from ggq.writer import Writer

__version__ = "0.1.0"

__all__ = [
    "Metadata",
    "Reader",
    "Split",
    "StringArray",
    "Tensor",
    "TensorInfo",
    "ValueType",
    "Writer",
    "__version__",
    "errors",
    "load",
    "open",
]

# Resolved on first use, so that `import ggq` stays quick and imports no compiler.
_HOMES = {
    "Metadata": "ggq.metadata",
    "Reader": "ggq.reader",
    "Split": "ggq.shards",
    "StringArray": "ggq.strings",
    "Tensor": "ggq.reader",
    "TensorInfo": "ggq.spec",
    "ValueType": "ggq.spec",
    "Writer": "ggq.writer",
    "load": "ggq.runtime.model",
}


def open(path: str | os.PathLike[str], *, header_only: bool = False, mapped: bool = True) -> Reader:
    """The GGUF file `path`, or all shards of the model it belongs to. See ggq.reader.Reader."""
    from ggq.reader import Reader

    return Reader(path, header_only=header_only, mapped=mapped)


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("ggq.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'ggq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
