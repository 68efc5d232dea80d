"""A report as one page of HTML that needs nothing else: tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ggq.convert.eval.report import COLUMNS, shown
from ggq.convert.eval.run import Measured
from ggq.convert.pages.html import document, table
from ggq.convert.pages.plots import Point, histogram, points, tensor_maps

Report = dict[str, Any]
_BINS = 80
_WIDEST_SHARE = 0.0005  # of tokens beyond each end of the histogram


def page(report: Report, measured: Sequence[Measured], errors: dict[str, dict[str, float]]) -> str:
    """The page. `errors`: file -> tensor -> relative error, as `tensor_errors` gives them."""
    names = short_names([file["name"] for file in report["files"]])
    body = [f"<p>{escape(_facts(report))}</p>"]
    for text, found in zip(report["texts"], measured, strict=True):
        body += _section(report, text, found, names)
    maps = {names[file]: of_tensors for file, of_tensors in errors.items() if of_tensors}
    if maps:
        body.append("<h2>Error of the weights</h2>")
        body.append(
            "<p>Root of the mean square error of each tensor over that of its weights; the darker"
            " the larger, on one scale for all files. Rows are layers. Weights that a transform"
            " rearranged differ however good the file is.</p>"
        )
        body += tensor_maps(maps)
    return document("Measured: " + ", ".join(names.values()), body)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name as given -> the last part of it, or all where that part is not its alone."""
    last = [Path(name).name for name in names]
    return {
        name: short if last.count(short) == 1 else name
        for name, short in zip(names, last, strict=True)
    }


def _facts(report: Report) -> str:
    kept = "as they are" if report["exact"] else "rounded to bytes"
    facts = f"ggq-eval {report['version']}; activations {kept}. Values are ± standard errors."
    if report["reference"]:
        facts = f"Reference: {report['reference']}. KLD in nats. {facts}"
    return facts


def _section(
    report: Report, text: Report, measured: Measured, names: Mapping[str, str]
) -> list[str]:
    head = f"{text['domain']}, {text['chunks']} chunks of {text['n_ctx']} tokens"
    parts = [f"<h2>{escape(head)}</h2>", _table(report, text, names)]
    if report["reference"] is None:
        return parts
    base = text["files"][0]["figures"]["reference_perplexity"]
    parts.append(f"<p>Perplexity of the reference: {escape(shown(base))}.</p>")
    parts += [f"<p>{escape(line)}</p>" for line in _paired(text, names)]
    places = {
        names[each["name"]]: [Point(file["bits_per_weight"], kld["value"], kld["error"])]
        for file, each in zip(report["files"], text["files"], strict=True)
        for kld in [each["figures"]["kld_mean"]]
    }
    parts += ["<h3>Divergence against size</h3>",
              points(places, ("bits per weight", "mean KLD, nats")),
              "<h3>How much likelier the text's tokens became</h3>",
              _delta_histogram(list(places), measured)]  # fmt: skip
    return parts


def _table(report: Report, text: Report, names: Mapping[str, str]) -> str:
    known = [
        (title, *place)
        for title, place in COLUMNS.items()
        if all(place[0] in each["figures"] for each in text["files"])
    ]
    heads = ["file", "bits/weight", *(title for title, _, _ in known)]
    rows = []
    for file, each in zip(report["files"], text["files"], strict=True):
        cells = [names[each["name"]], f"{file['bits_per_weight']:.3f}"]
        rows.append(cells + [shown(each["figures"][name], scale) for _, name, scale in known])
    return table(heads, rows)


def _paired(text: Report, names: Mapping[str, str]) -> list[str]:
    return [
        f"{names[each['name']]} over {names[text['files'][0]['name']]}: mean KLD"
        f" ×{ratio['value']:.3f}, 95 % of draws from {ratio['low']:.3f} to {ratio['high']:.3f}"
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
