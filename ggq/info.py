"""What is in a GGUF file: metadata, tokenizer, tensors, types, bits per weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ggq.cli_support import printable
from ggq.metadata import Metadata
from ggq.reader import Reader
from ggq.spec import ValueType
from ggq.strings import StringArray

Report = dict[str, Any]

_HEAD_ITEMS = 8
_MAX_TEXT = 100
# llama.cpp include/llama.h `llama_token_type`
_TOKEN_TYPES = ("undefined", "normal", "unknown", "control", "user_defined", "unused", "byte")


def describe(reader: Reader, *, full: bool = False) -> Report:
    """Everything about the file, ready for JSON. Long arrays are cut to their head unless `full`.

    Keys: files, bytes, version, alignment, metadata, tokenizer, types, weights, tensor_bytes,
    bits_per_weight, tensors. Shapes are rows first. Numbers JSON cannot hold become text.
    """
    tensors = list(reader.tensors.values())
    weights = sum(tensor.n_weights for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return {
        "files": [str(path) for path in reader.paths],
        "bytes": reader.nbytes,
        "version": reader.version,
        "alignment": reader.alignment,
        "metadata": {key: _value(reader.metadata, key, full) for key in reader.metadata},
        "tokenizer": _tokenizer(reader.metadata),
        "types": _types(reader),
        "weights": weights,
        "tensor_bytes": nbytes,
        "bits_per_weight": 8 * nbytes / weights if weights else None,
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "type": tensor.type.name,
                "bytes": tensor.nbytes,
                "offset": tensor.offset_bytes,
                "file": str(tensor.path),
            }
            for tensor in tensors
        ],
    }


def _value(metadata: Metadata, key: str, full: bool) -> Report:
    kind, item = metadata.type(key), metadata.item_type(key)
    value = metadata[key]
    if item is None:
        return {"type": kind.name, "value": _json(value)}
    shown = value[: len(value) if full else _HEAD_ITEMS]
    items = shown.tolist() if isinstance(shown, np.ndarray) else shown
    field = "value" if len(items) == len(value) else "head"
    report = {"type": kind.name, "item_type": item.name, "count": len(value)}
    return report | {field: [_json(i) for i in items]}


def _json(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _types(reader: Reader) -> list[Report]:
    by_type: dict[str, Report] = {}
    for tensor in reader.tensors.values():
        empty = {"type": tensor.type.name, "tensors": 0, "weights": 0, "bytes": 0}
        report = by_type.setdefault(tensor.type.name, empty)
        report["tensors"] += 1
        report["weights"] += tensor.n_weights
        report["bytes"] += tensor.nbytes
    return sorted(by_type.values(), key=lambda report: -report["bytes"])


def _tokenizer(metadata: Metadata) -> Report | None:
    """Summary of the tokenizer keys; values of an unexpected type are left out."""
    prefix = "tokenizer.ggml."
    keys = {k.removeprefix(prefix): metadata[k] for k in metadata if k.startswith(prefix)}
    if not keys:
        return None
    tokens, types = keys.get("tokens"), keys.get("token_type")
    report: Report = {name: keys[name] for name in ("model", "pre") if name in keys}
    for name in ("tokens", "merges"):
        if isinstance(keys.get(name), StringArray):
            report[name] = len(keys[name])
    if isinstance(types, np.ndarray):
        counts = {name: int((types == i).sum()) for i, name in enumerate(_TOKEN_TYPES)}
        report["token_types"] = {name: count for name, count in counts.items() if count}
    report["special"] = {
        name.removesuffix("_token_id"): {"id": number, "text": _token(tokens, number)}
        for name, number in keys.items()
        if name.endswith("_token_id") and isinstance(number, int)
    }
    report["flags"] = {name: value for name, value in keys.items() if isinstance(value, bool)}
    report["chat_template"] = "tokenizer.chat_template" in metadata
    return report


def _token(tokens: Any, number: int) -> str | None:
    known = isinstance(tokens, StringArray) and 0 <= number < len(tokens)
    return tokens[number] if known else None


def render(report: Report) -> str:
    """The report as text for a terminal; control characters of the file are escaped."""
    sections = [_head(report), *_metadata_lines(report["metadata"])]
    if report["tokenizer"] is not None:
        sections += ["", "tokenizer", *_tokenizer_lines(report["tokenizer"])]
    sections += ["", "types", *_table(_type_rows(report))]
    sections += ["", "tensors, shapes rows first", *_table(_tensor_rows(report["tensors"]))]
    return "\n".join(line.rstrip() for line in sections)


def _head(report: Report) -> str:
    bits = report["bits_per_weight"]
    lines = [*map(printable, report["files"])]
    facts = [
        f"GGUF version {report['version']}",
        f"{report['bytes']:,} bytes",
        f"{len(report['tensors']):,} tensors",
        f"{report['weights']:,} weights",
        "no weights" if bits is None else f"{bits:.4g} bits per weight",
    ]
    return "\n".join([*lines, ", ".join(facts), "", "metadata"])


def _metadata_lines(metadata: Report) -> list[str]:
    rows = []
    for key, entry in metadata.items():
        if "item_type" in entry:
            kind = f"{entry['item_type']}[{entry['count']:,}]"
            items = entry.get("value", entry.get("head", []))[:_HEAD_ITEMS]
            texts = [_text(item, entry["item_type"]) for item in items]
            more = ", ..." if entry["count"] > len(items) else ""
            text = f"[{', '.join(texts)}{more}]"
        else:
            kind, text = entry["type"], _text(entry["value"], entry["type"])
        rows.append((printable(key), kind, text))
    return _table(rows)


def _text(value: Any, kind: str) -> str:
    if kind == ValueType.F32.name and isinstance(value, float):
        return str(np.float32(value))
    if not isinstance(value, str):
        return str(value)
    cut = "" if len(value) <= _MAX_TEXT else f" ... ({len(value):,} characters)"
    return printable(value[:_MAX_TEXT]) + cut


def _tokenizer_lines(tokenizer: Report) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for name in ("model", "pre", "tokens", "merges"):
        if name in tokenizer:
            value = tokenizer[name]
            rows.append((name, f"{value:,}" if isinstance(value, int) else _text(value, "")))
    for name, count in tokenizer.get("token_types", {}).items():
        rows.append((f"{name} tokens", f"{count:,}"))
    for name, token in tokenizer["special"].items():
        rows.append((printable(name), f"{token['id']} {_text(token['text'] or '', '')}"))
    for name, flag in tokenizer["flags"].items():
        rows.append((printable(name), str(flag)))
    rows.append(("chat template", "yes" if tokenizer["chat_template"] else "no"))
    return _table(rows)


def _type_rows(report: Report) -> Iterable[tuple[str, ...]]:
    yield "type", "tensors", "weights", "bytes", "share"
    for entry in report["types"]:
        share = 100 * entry["bytes"] / report["tensor_bytes"] if report["tensor_bytes"] else 0
        yield (
            entry["type"],
            f"{entry['tensors']:,}",
            f"{entry['weights']:,}",
            f"{entry['bytes']:,}",
            f"{share:.1f} %",
        )


def _tensor_rows(tensors: list[Report]) -> Iterable[tuple[str, ...]]:
    yield "name", "type", "shape", "bytes"
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"])) or "scalar"
        yield printable(tensor["name"]), tensor["type"], shape, f"{tensor['bytes']:,}"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
