"""The figures of a run as data for JSON and as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ggq import __version__
from ggq.convert.eval.run import Measured
from ggq.convert.eval.statistics import Figure, figures, paired
from ggq.reader import Reader
from ggq.runtime.tables import aligned_table

Report = dict[str, Any]
COLUMNS = {
    "perplexity": ("perplexity", 1.0),
    "KLD mean": ("kld_mean", 1.0),
    "median": ("kld_median", 1.0),
    "95 %": ("kld_95", 1.0),
    "99 %": ("kld_99", 1.0),
    "99.9 %": ("kld_99_9", 1.0),
    "max": ("kld_max", 1.0),
    "same top %": ("same_top", 100.0),
    "Δp mean %": ("delta_p_mean", 100.0),
    "Δp rms %": ("delta_p_rms", 100.0),
}


@dataclass(frozen=True)
class FileFacts:
    """A measured file: the name it was given by, its bytes, bits per weight over all tensors."""

    name: str
    nbytes: int
    bits_per_weight: float

    @classmethod
    def of(cls, name: str, reader: Reader) -> FileFacts:
        """From the open file."""
        weights = sum(tensor.n_weights for tensor in reader.tensors.values())
        stored = sum(tensor.nbytes for tensor in reader.tensors.values())
        return cls(name, reader.nbytes, 8 * stored / weights)


def report_of(
    measured: Sequence[Measured], files: Sequence[FileFacts], reference: str | None, exact: bool
) -> Report:
    """Everything, ready for JSON: figures in nats, probabilities and shares of 1.

    Keys: version, reference, exact, files, texts. A text has domain, n_ctx, chunks, tokens, files
    (name, figures: value and error each) and, with a reference and several files, against_first:
    each further file's figures over the first one's, paired.
    """
    return {
        "version": __version__,
        "reference": reference,
        "exact": exact,
        "files": [asdict(file) for file in files],
        "texts": [_text(each, files, reference is not None) for each in measured],
    }


def _text(measured: Measured, files: Sequence[FileFacts], has_reference: bool) -> Report:
    found = measured.divergences
    report: Report = {
        "domain": measured.domain,
        "n_ctx": measured.n_ctx,
        "chunks": measured.n_chunks,
        "tokens": len(found[0]) if found else 0,
        "files": [
            {"name": file.name, "figures": _as_dicts(figures(d, with_reference=has_reference))}
            for file, d in zip(files, found, strict=True)
        ],
    }
    if has_reference:
        report["against_first"] = [
            {"name": file.name, "ratios": _as_dicts(paired(d, found[0]))}
            for file, d in zip(files[1:], found[1:], strict=True)
        ]
    return report


def _as_dicts(named: dict[str, Any]) -> Report:
    return {name: asdict(value) for name, value in named.items()}


def tables(report: Report) -> str:
    """The report for a terminal, a table for each text."""
    bits = {file["name"]: file["bits_per_weight"] for file in report["files"]}
    return "\n\n".join(_table(text, bits, report["reference"]) for text in report["texts"]) + "\n"


def _table(text: Report, bits: dict[str, float], reference: str | None) -> str:
    head = (
        f"{text['domain']}: {text['chunks']} chunks of {text['n_ctx']}, {text['tokens']:,} tokens"
    )
    if reference and text["files"]:
        base = text["files"][0]["figures"]["reference_perplexity"]
        head += f" scored; reference {reference}, perplexity {shown(base)}"
    known = {
        title: place
        for title, place in COLUMNS.items()
        if all(place[0] in each["figures"] for each in text["files"])
    }
    rows = [["file", "bits/weight", *known]]
    for each in text["files"]:
        cells = [shown(each["figures"][name], scale) for name, scale in known.values()]
        rows.append([each["name"], f"{bits[each['name']]:.3f}", *cells])
    lines = [head, *aligned_table(rows)]
    for each in text.get("against_first", []):
        first = text["files"][0]["name"]
        parts = [f"{_PAIRED[k]} x{_interval(ratio)}" for k, ratio in each["ratios"].items()]
        lines.append(f"{each['name']} over {first}: {', '.join(parts)}")
    return "\n".join(lines)


_PAIRED = {"kld_mean": "mean KLD", "kld_99_9": "99.9 % KLD", "perplexity": "perplexity"}


def _interval(ratio: Report) -> str:
    return f"{ratio['value']:.3f} (95 %: {ratio['low']:.3f} to {ratio['high']:.3f})"


def shown(figure: Report | Figure, scale: float = 1.0) -> str:
    """Value ± error, the error to two figures."""
    given = asdict(figure) if isinstance(figure, Figure) else figure
    value, error = scale * given["value"], given["error"]
    if error is None or not error:
        return f"{value:.4g}"
    text = f"{scale * error:.2g}"
    if "e" in text:
        return f"{value:.4g} ± {text}"
    decimals = len(text.partition(".")[2])
    return f"{value:.{decimals}f} ± {text}"
