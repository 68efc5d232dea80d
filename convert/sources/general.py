"""The general.* keys of a model directory: name, size, and the sampling its makers recommend.

Keys and their order: llama.cpp gguf-py/gguf/metadata.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ggq.convert.sources.json_file import read_json
from ggq.runtime.arch._base import Entry
from ggq.spec import TensorInfo, ValueType

SAMPLING = (
    ("top_k", "top_k", ValueType.I32),
    ("top_p", "top_p", ValueType.F32),
    ("min_p", "min_p", ValueType.F32),
    ("xtc_probability", "xtc_probability", ValueType.F32),
    ("xtc_threshold", "xtc_threshold", ValueType.F32),
    ("temperature", "temp", ValueType.F32),
    ("penalty_last_n", "penalty_last_n", ValueType.I32),
    ("penalty_repeat", "penalty_repeat", ValueType.F32),
    ("mirostat", "mirostat", ValueType.I32),
    ("mirostat_tau", "mirostat_tau", ValueType.F32),
    ("mirostat_eta", "mirostat_eta", ValueType.F32),
)
_VERSION = re.compile(r"v\d+(\.\d+)*|\d.*")


def general_metadata(
    model_dir: Path, arch: str, config: dict[str, Any], name: str | None = None
) -> list[Entry]:
    """(key, type, value) of the general.* keys; the size is not known yet."""
    return [
        ("general.architecture", ValueType.STRING, arch),
        ("general.type", ValueType.STRING, "model"),
        *_sampling(model_dir),
        ("general.name", ValueType.STRING, name or _title(config, model_dir)),
        ("general.size_label", ValueType.STRING, ""),
    ]


def _sampling(model_dir: Path) -> list[Entry]:
    path = model_dir / "generation_config.json"
    given = read_json(path) if path.is_file() else {}
    given.setdefault("penalty_repeat", given.get("repetition_penalty"))
    entries: list[Entry] = []
    for source, key, kind in SAMPLING:
        value = given.get(source)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            number = int(value) if kind is ValueType.I32 else float(value)
            entries.append((f"general.sampling.{key}", kind, number))
    return entries


def _title(config: dict[str, Any], model_dir: Path) -> str:
    """The model's own name if config.json has one, else that of the directory."""
    name = config.get("_name_or_path")
    if not isinstance(name, str) or not name or name.count("/") > 1:
        name = model_dir.resolve().name
    words = name.rpartition("/")[2].replace("-", " ").split()
    return " ".join(
        word.title() if word.islower() and not _VERSION.fullmatch(word) else word for word in words
    )


def size_label(tensors: Iterable[TensorInfo]) -> str:
    """How large a model is: 135M, 1.7B, 70B; with 8 experts, 8x7B as if there were only one.

    Source: llama.cpp gguf-py/gguf/gguf_writer.py `get_total_parameter_count`.
    """
    of_one, counts = 0, []
    for tensor in tensors:
        is_stack = "_exps." in tensor.name and len(tensor.shape) > 2
        counts += [tensor.shape[-3]] if is_stack else []
        of_one += tensor.n_weights // (tensor.shape[-3] if is_stack else 1)
    return f"{sum(counts) // len(counts)}x{rounded(of_one)}" if counts else rounded(of_one)


def rounded(n_weights: int) -> str:
    """A count of weights with at least two digits: 135M, 1.7B, 70B."""
    exponent, letter = next(
        (pair for pair in ((12, "T"), (9, "B"), (6, "M")) if n_weights > 10 ** pair[0]), (3, "K")
    )
    scaled = n_weights / 10**exponent
    digits = len(str(round(scaled)).lstrip("0"))
    return f"{scaled:.{max(0, 2 - digits)}f}{letter}"
