"""How large a file may become, or how far from the original: what --target-* and --max-kld say."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggq.convert.mixtures.plan import Plan
    from ggq.metadata import Metadata

KEYS_BYTES = 2048  # the ggq.* keys and those of quantization take less
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([KMGT]?)(I?)B)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """One limit; the others are None. `file_bytes` counts the whole file, header and all."""

    file_bytes: int | None = None
    bits_per_weight: float | None = None
    max_kld: float | None = None


def target_size(text: str) -> int:
    """Bytes of "4200000000", "4.2GB" or "4.2GiB". Raises ArgumentTypeError."""
    found = _SIZE.fullmatch(text.strip())
    nbytes = 0
    if found:
        base = 1024 if found[3] else 1000
        nbytes = int(Decimal(found[1]) * base ** _POWERS[(found[2] or "").upper()])
    if nbytes < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4.2GB, 4.2GiB or bytes")
    return nbytes


def target_bpw(text: str) -> float:
    """Bits per weight, 1 to 32. Raises ArgumentTypeError."""
    return _number(text, 1.0, 32.0, "a number of bits per weight from 1 to 32, such as 4.5")


def max_kld(text: str) -> float:
    """Nats. Raises ArgumentTypeError."""
    return _number(text, 1e-9, 100.0, "a mean KL divergence in nats, such as 0.02")


def _number(text: str, low: float, high: float, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def tensor_bytes(budget: Budget, metadata: Metadata, plan: Plan) -> int | None:
    """Bytes the limit leaves for the tensors of a file with this metadata, None without a limit."""
    if budget.bits_per_weight is not None:
        return int(budget.bits_per_weight * plan.n_weights / 8)
    if budget.file_bytes is not None:
        return budget.file_bytes - overhead_bytes(metadata, plan)
    return None


def overhead_bytes(metadata: Metadata, plan: Plan) -> int:
    """Most bytes of a file that are not its tensors' own: header, keys of this run, padding."""
    from ggq.metadata import read_alignment
    from ggq.tensor_info import encode_info

    infos = [tensor.info for tensor in plan.tensors]
    header = 24 + len(metadata.encode()) + sum(len(encode_info(info, 0)) for info in infos)
    return header + KEYS_BYTES + (len(infos) + 1) * (read_alignment(metadata) - 1)
