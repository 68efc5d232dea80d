"""--report: what a run chose and lost, tensor by tensor, as JSON or as one page of HTML."""

from __future__ import annotations

import html
import json
from pathlib import Path

from ggq.atomic import PendingFile, check_target
from ggq.convert.reports.account import Account, TensorAccount

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .15rem .7rem }
th { text-align: left; border-bottom: 1px solid #999; position: sticky; top: 0; background: Canvas }
.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { display: inline-block; height: .7em; background: #47a }
:root { color-scheme: light dark }
"""


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
    facts = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(_shown(value))}"
        for name, value in account.facts.items()
    )
    head = "".join(
        f"<th>{name}" for name in ("tensor", "type", "bytes", "error before", "after",
                                   "sensitivity", "", "rule")
    )  # fmt: skip
    most = max((tensor.sensitivity or 0 for tensor in account.tensors), default=0)
    rows = "".join(_row(tensor, most) for tensor in account.tensors)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>ggq-convert</title>'
        f"<style>{_STYLE}</style><h1>ggq-convert</h1><table>{facts}</table>"
        "<p>Errors are shares of the mean square of a tensor's output, or of its weights where no"
        " text was run: before, as llama-quantize rounds with the same importance; after, as in the"
        " file. Sensitivity is the KL divergence in nats a token that the tensor's error alone is"
        " predicted to cause.</p>"
        f"<table><tr>{head}{rows}</table></html>\n"
    )


def _row(tensor: TensorAccount, most: float) -> str:
    width = 120 * (tensor.sensitivity or 0) / most if most else 0
    numbers = "".join(
        f'<td class="number">{"" if value is None else f"{value:.3g}"}'
        for value in (tensor.error_before, tensor.error_after, tensor.sensitivity)
    )
    return (
        f'<tr><td>{html.escape(tensor.name)}<td>{tensor.type}<td class="number">{tensor.nbytes:,}'
        f'{numbers}<td><span class="bar" style="width:{width:.0f}px"></span>'
        f"<td>{html.escape(tensor.rule)}"
    )


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
