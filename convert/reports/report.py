"""--report: what a run chose and lost, tensor by tensor, as JSON or as one page of HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ggq.atomic import PendingFile, check_target
from ggq.convert.pages.html import document, table
from ggq.convert.pages.plots import percent, tensor_maps
from ggq.convert.reports.account import Account, TensorAccount

_ERRORS = (
    "Errors are shares of the mean square of a tensor's output, or of its weights where no text was"
    " run: before, as llama-quantize rounds with the same importance; after, as in the file."
)
_SENSITIVITY = (
    "Sensitivity is the KL divergence in nats a token that the tensor's error alone is predicted to"
    " cause."
)


def write_report(path: Path, account: Account) -> None:
    """Write the report; the name ends in .json or .html. It appears whole or not at all.

    Raises NotFoundError, UsageError, DiskFullError.
    """
    is_json = path.suffix.lower() == ".json"
    text = json.dumps(account.as_json(), indent=1) + "\n" if is_json else as_html(account)
    check_target(path)
    file = PendingFile(path)
    try:
        file.write(memoryview(text.encode()))
        file.sync()
        file.publish()
    finally:
        file.discard()


def as_html(account: Account) -> str:
    """One page that needs nothing else."""
    choices = [[name, _shown(value)] for name, value in account.facts.items()]
    body = [table(["choice", "value"], choices, 2)] if choices else []
    body += ["<h2>Types</h2>", _types(account.tensors)]
    body += _maps(account.tensors)
    body += ["<h2>Tensors</h2>", f"<p>{_ERRORS} {_SENSITIVITY}</p>"]
    heads = ["tensor", "type", "rule", "bytes", "error before", "after", "sensitivity"]
    body.append(table(heads, [_row(tensor) for tensor in account.tensors], 3))
    return document("ggq-convert", body)


def _types(tensors: Sequence[TensorAccount]) -> str:
    """How many tensors and bytes each type has."""
    sizes: dict[str, list[int]] = {}
    for tensor in tensors:
        sizes.setdefault(tensor.type, []).append(tensor.nbytes)
    total = max(1, sum(tensor.nbytes for tensor in tensors))
    rows = [
        [name, str(len(each)), f"{sum(each):,}", percent(sum(each) / total)]
        for name, each in sorted(sizes.items(), key=lambda item: -sum(item[1]))
    ]
    return table(["type", "tensors", "bytes", "of all"], rows)


def _maps(tensors: Sequence[TensorAccount]) -> list[str]:
    """Maps of what is known of the tensors."""
    errors = {t.name: t.error_after for t in tensors if t.error_after is not None}
    nats = {t.name: t.sensitivity for t in tensors if t.sensitivity is not None}
    parts = ["<h2>Where it is lost</h2>", "<p>The darker the larger; rows are layers.</p>"]
    if errors:
        parts += [*tensor_maps({"Error": errors}), f"<p>{_ERRORS}</p>"]
    if nats:
        parts += [*tensor_maps({"Sensitivity": nats}, "{:.1e}".format), f"<p>{_SENSITIVITY}</p>"]
    return parts if errors or nats else []


def _row(tensor: TensorAccount) -> list[str]:
    figures = tensor.error_before, tensor.error_after, tensor.sensitivity
    numbers = ["" if value is None else f"{value:.3g}" for value in figures]
    return [tensor.name, tensor.type, tensor.rule, f"{tensor.nbytes:,}", *numbers]


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
