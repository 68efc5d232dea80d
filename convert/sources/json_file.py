"""JSON files of a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggq.errors import ConvertError, NotFoundError

MAX_BYTES = 1 << 30


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`. Raises NotFoundError, ConvertError."""
    if not path.is_file():
        raise NotFoundError(f"{path}: this file is missing")
    if path.stat().st_size > MAX_BYTES:
        raise ConvertError(f"{path}: the file has more than {MAX_BYTES:,} bytes")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: this is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: a JSON object is wanted, not {type(value).__name__}")
    return value
