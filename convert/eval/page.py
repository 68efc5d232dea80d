"""A report as one page of HTML that needs nothing else: tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from ggq.convert.eval.report import COLUMNS, shown
from ggq.convert.eval.run import Measured
from ggq.convert.eval.svg import heat_map, histogram, points

Report = dict[str, Any]
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd;
         white-space: nowrap }
td:first-child, th:first-child { text-align: left }
svg { font: 12px system-ui, sans-serif; max-width: 100%; height: auto; display: block }
.grid { stroke: #e4e4e4 }
"""
_BINS = 80
_WIDEST_SHARE = 0.0005  # of tokens beyond each end of the histogram


def page(report: Report, measured: Sequence[Measured], errors: dict[str, dict[str, float]]) -> str:
    """The page. `errors`: file -> tensor -> relative error, as `tensor_errors` gives them."""
    title = "Measured: " + ", ".join(file["name"] for file in report["files"])
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(_facts(report))}</p>"]
    for text, found in zip(report["texts"], measured, strict=True):
        body += _section(report, text, found)
    for name, of_tensors in errors.items():
        if of_tensors:
            body.append(f"<h2>Error of the weights of {escape(name)}</h2>")
            body.append("<p>Root of the mean square error over that of the weights.</p>")
            body.append(_tensor_map(of_tensors))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _facts(report: Report) -> str:
    kept = "as they are" if report["exact"] else "rounded to bytes"
    facts = f"ggq-eval {report['version']}; activations {kept}. Values are ± standard errors."
    if report["reference"]:
        facts = f"Reference: {report['reference']}. {facts}"
    return facts


def _section(report: Report, text: Report, measured: Measured) -> list[str]:
    head = f"{text['domain']}, {text['chunks']} chunks of {text['n_ctx']} tokens"
    parts = [f"<h2>{escape(head)}</h2>", _table(report, text)]
    if report["reference"] is None:
        return parts
    parts += [f"<p>{escape(line)}</p>" for line in _paired(text)]
    klds = [each["figures"]["kld_mean"] for each in text["files"]]
    names = [each["name"] for each in text["files"]]
    bits = [file["bits_per_weight"] for file in report["files"]]
    parts.append(points(names, bits, [k["value"] for k in klds], [k["error"] for k in klds],
                        ("bits per weight", "mean KLD, nats")))  # fmt: skip
    parts.append(_delta_histogram(names, measured))
    return parts


def _table(report: Report, text: Report) -> str:
    known = [
        (title, *place)
        for title, place in COLUMNS.items()
        if all(place[0] in each["figures"] for each in text["files"])
    ]
    heads = ["file", "bits/weight", *(title for title, _, _ in known)]
    rows = ["".join(f"<th>{escape(head)}</th>" for head in heads)]
    for file, each in zip(report["files"], text["files"], strict=True):
        cells = [each["name"], f"{file['bits_per_weight']:.3f}"]
        cells += [shown(each["figures"][name], scale) for _, name, scale in known]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _paired(text: Report) -> list[str]:
    return [
        f"{each['name']} over {text['files'][0]['name']}: mean KLD x{ratio['value']:.3f}, "
        f"95 % of draws from {ratio['low']:.3f} to {ratio['high']:.3f}"
        for each in text["against_first"]
        for ratio in [each["ratios"]["kld_mean"]]
    ]


def _delta_histogram(names: Sequence[str], measured: Measured) -> str:
    every = [100 * d.delta_p for d in measured.divergences]
    ends = [np.quantile(np.abs(x), 1 - 2 * _WIDEST_SHARE) for x in every]
    widest = max(1e-3, float(max(ends)))
    edges = np.linspace(-widest, widest, _BINS + 1)
    shares = [
        (np.histogram(np.clip(x, -widest, widest), edges)[0] / len(x)).tolist() for x in every
    ]
    return histogram(names, shares, edges.tolist(), ("Δp, percent", "share of tokens"))


def _tensor_map(errors: dict[str, float]) -> str:
    cells = {}
    for name, error in errors.items():
        stem = name.removesuffix(".weight")
        layer, _, role = stem.removeprefix("blk.").partition(".")
        cells[(layer, role) if stem.startswith("blk.") else ("", stem)] = error
    layers = sorted({row for row, _ in cells if row}, key=int)
    roles = list(dict.fromkeys(column for _, column in cells))
    return heat_map([*([""] if any(not row for row, _ in cells) else []), *layers], roles, cells)
