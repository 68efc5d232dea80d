"""A conversion that is ready to be written."""

from __future__ import annotations

from dataclasses import dataclass

from ggq.convert.imatrix import Imatrix
from ggq.convert.mixtures.plan import Plan
from ggq.convert.reports.account import Account
from ggq.convert.sources.tensor_source import Source
from ggq.convert.writing.encoders import Encoder


@dataclass(frozen=True)
class Prepared:
    """What is written from where, and how.

    `account` has no facts where llama-quantize is followed. `importance` weighs columns while rows
    are made; `imatrix` is the file it comes from, if it does.
    """

    source: Source
    plan: Plan
    encoder: Encoder
    account: Account
    imatrix: Imatrix | None = None
    importance: Imatrix | None = None
