"""Results as text: markdown, a plain table, CSV, JSON, JSON lines, SQL.

Names and forms: llama.cpp tools/llama-bench/llama-bench.cpp; what follows `stddev_ts` is ggq's own.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ggq import __version__
from ggq.jit import cpu
from ggq.runtime.bench.cases import MODEL_BATCH, Case
from ggq.runtime.bench.measure import Result, deviation
from ggq.runtime.bench.roofline import Roofline
from ggq.runtime.model import Model
from ggq.runtime.tables import aligned_table

Row = dict[str, Any]
FORMATS = ("csv", "json", "jsonl", "md", "sql", "table")
HEADLINE = ("model", "size", "params", "backend", "threads")
FIGURES = ("test", "t/s", "GB/s", "GOPS")
LIMITS = ("limit t/s", "% of limit")
MACHINE = ("cpu", "threads", "read GB/s", "byte GOPS", "short GOPS", "single GOPS")


def row(result: Result, model: Model, roofline: Roofline | None) -> Row:
    """All that is known of a result, by llama-bench's names."""
    case, ns = result.case, [float(n) for n in result.samples_ns]
    return {
        "build_commit": f"ggq-{__version__}",
        "build_number": 0,
        "cpu_info": cpu_info(),
        "gpu_info": "",
        "backends": "CPU",
        "model_filename": case.model,
        "model_type": model_type(model),
        "model_size": sum(t.nbytes for t in model.tensors.values()),
        "model_n_params": n_weights(model),
        "n_batch": case.n_batch,
        "n_ubatch": case.n_ubatch,
        "n_threads": case.n_threads,
        "type_k": "f16",
        "type_v": "f16",
        "n_prompt": case.n_prompt,
        "n_gen": case.n_gen,
        "n_depth": case.n_depth,
        "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "avg_ns": round(result.avg_ns),
        "stddev_ns": round(deviation(ns)),
        "avg_ts": round(sum(result.samples_ts) / len(ns), 6),
        "stddev_ts": round(deviation(result.samples_ts), 6),
        "exact": case.exact,
        "cpu_form": cpu.form(),
        "read_gbs": round(result.gbs, 3),
        "gops": round(result.gops, 3),
        "limit_ts": _limit_ts(result),
        "of_limit": None if result.of_limit is None else round(result.of_limit, 4),
        **_limits(roofline, result.read_gbs),
        "samples_ns": result.samples_ns,
        "samples_ts": [round(ts, 6) for ts in result.samples_ts],
    }


def _limit_ts(result: Result) -> float | None:
    if result.limit_seconds is None:
        return None
    return round((result.case.n_prompt + result.case.n_gen) / result.limit_seconds, 3)


def roofline_row(roofline: Roofline) -> Row:
    """The machine's limits."""
    return {
        "build_commit": f"ggq-{__version__}",
        "cpu_info": cpu_info(),
        "cpu_form": roofline.form,
        "n_threads": roofline.threads,
        **_limits(roofline, roofline.read_gbs),
    }


def _limits(roofline: Roofline | None, read_gbs: float | None) -> Row:
    return {
        "limit_read_gbs": read_gbs and round(read_gbs, 3),
        "limit_dot_gops": roofline and round(roofline.dot_gops, 3),
        "limit_short_gops": roofline and round(roofline.short_gops, 3),
        "limit_fma_gops": roofline and round(roofline.fma_gops, 3),
    }


def cpu_info() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor()} ({cpu.host()[0]})"


def n_weights(model: Model) -> int:
    """Weights of all tensors."""
    return sum(_weights(tensor.shape) for tensor in model.tensors.values())


def _weights(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def model_type(model: Model) -> str:
    """Architecture, size and commonest tensor type: "llama 135M Q4_1"."""
    counts: dict[str, int] = {}
    for tensor in model.tensors.values():
        counts[tensor.type.name] = counts.get(tensor.type.name, 0) + _weights(tensor.shape)
    total = n_weights(model)
    size = f"{total / 1e9:.1f}B" if total >= 1e9 else f"{total / 1e6:.0f}M"
    return f"{model.arch.name} {size} {max(counts, key=lambda name: counts[name])}"


def columns(cases: list[Case], *, limits: bool) -> list[str]:
    """Columns of a table; settings that are as ever are left out."""
    usual = {"n_batch": {2048}, "n_ubatch": {MODEL_BATCH}, "exact": {False}}
    unusual = [name for name, value in usual.items() if {getattr(c, name) for c in cases} != value]
    return [*HEADLINE, *unusual, *FIGURES, *(LIMITS if limits else ())]


def lines(form: str, rows: Iterator[Row], columns: Sequence[str]) -> Iterator[str]:
    """The text of all rows, piece by piece as they come; `columns` are those of a table."""
    if form == "md":
        yield from _markdown(rows, columns)
    elif form == "table":
        yield from _table(rows, columns)
    else:
        yield from _WRITERS[form](rows)


def _json(rows: Iterator[Row]) -> Iterator[str]:
    before = "["
    for each in rows:
        fields = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in each.items())
        yield f"{before}\n  {{\n{fields}\n  }}"
        before = ","
    yield "\n]\n" if before == "," else "[]\n"


def _jsonl(rows: Iterator[Row]) -> Iterator[str]:
    for each in rows:
        yield json.dumps(each) + "\n"


def _csv(rows: Iterator[Row]) -> Iterator[str]:
    names: list[str] = []
    for each in rows:
        out = io.StringIO()
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        flat = _flat(each)
        if not names:
            names = list(flat)
            yield ",".join(names) + "\n"
        writer.writerow(["" if flat[name] is None else flat[name] for name in names])
        yield out.getvalue()


def _sql(rows: Iterator[Row]) -> Iterator[str]:
    kinds = {int: "INTEGER", bool: "INTEGER", float: "REAL", str: "TEXT", type(None): "REAL"}
    created = False
    for each in rows:
        flat = _flat(each)
        if not created:
            fields = ",\n".join(f"  {name} {kinds[type(v)]}" for name, v in flat.items())
            yield f"CREATE TABLE IF NOT EXISTS llama_bench (\n{fields}\n);\n\n"
            created = True
        values = ", ".join("NULL" if v is None else f"'{_quoted(v)}'" for v in flat.values())
        yield f"INSERT INTO llama_bench ({', '.join(flat)}) VALUES ({values});\n"


def _quoted(value: Any) -> str:
    return str(int(value) if isinstance(value, bool) else value).replace("'", "''")


def _flat(each: Row) -> Row:
    return {name: value for name, value in each.items() if not isinstance(value, list)}


def _table(rows: Iterator[Row], columns: Sequence[str]) -> Iterator[str]:
    found = list(rows)
    cells = [[_cell(name, each) for name in columns] for each in found]
    yield "\n".join(aligned_table([list(columns), *cells])) + "\n"
    yield from _footer(found)


def _markdown(rows: Iterator[Row], columns: Sequence[str]) -> Iterator[str]:
    """Lines as they come, so widths are what is usual, not what is needed."""
    widths = [max(_WIDTHS.get(name, 0), len(name)) for name in columns]
    left = [name in ("model", "cpu") for name in columns]

    def line(cells: Iterable[str]) -> str:
        padded = zip(cells, widths, left, strict=True)
        return "| " + " | ".join(c.ljust(w) if k else c.rjust(w) for c, w, k in padded) + " |\n"

    rule = ["-" * w if k else "-" * (w - 1) + ":" for w, k in zip(widths, left, strict=True)]
    found: list[Row] = []
    for each in rows:
        if not found:
            yield line(columns) + line(rule)
        found.append(each)
        yield line(_cell(name, each) for name in columns)
    yield from _footer(found)


def _footer(rows: list[Row]) -> Iterator[str]:
    """What no column has room for: the build, and the machine's limits."""
    if not rows or "avg_ts" not in rows[0]:
        return
    yield f"\nbuild: {rows[0]['build_commit']}, {rows[0]['cpu_info']}, {rows[0]['cpu_form']}\n"
    for threads in dict.fromkeys(r["n_threads"] for r in rows if r["limit_read_gbs"]):
        here = [r for r in rows if r["n_threads"] == threads]
        reads = statistics.median(r["limit_read_gbs"] for r in here)
        yield (
            f"limits with {threads} threads: {reads:.1f} GB/s, {here[0]['limit_dot_gops']:.0f} "
            f"GOPS of bytes, {here[0]['limit_short_gops']:.0f} of shorts, "
            f"{here[0]['limit_fma_gops']:.0f} of singles\n"
        )


def _cell(name: str, each: Row) -> str:
    return _CELLS[name](each) if name in _CELLS else str(each[name])


def _test_name(each: Row) -> str:
    parts = [f"pp{each['n_prompt']}"] * bool(each["n_prompt"])
    parts += [f"tg{each['n_gen']}"] * bool(each["n_gen"])
    return "+".join(parts) + (f" @ d{each['n_depth']}" if each["n_depth"] else "")


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.2f} MiB"


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 10**9 else f"{n / 1e6:.2f} M"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


_WIDTHS = {"model": 30, "size": 10, "params": 10, "test": 15, "t/s": 20}
_CELLS: dict[str, Callable[[Row], str]] = {
    "model": lambda r: str(r["model_type"]),
    "size": lambda r: _size(r["model_size"]),
    "params": lambda r: _count(r["model_n_params"]),
    "backend": lambda r: str(r["backends"]),
    "threads": lambda r: str(r["n_threads"]),
    "test": _test_name,
    "t/s": lambda r: f"{r['avg_ts']:.2f} ± {r['stddev_ts']:.2f}",
    "GB/s": lambda r: f"{r['read_gbs']:.1f}",
    "GOPS": lambda r: f"{r['gops']:.0f}",
    "limit t/s": lambda r: _optional(r["limit_ts"], ".0f"),
    "% of limit": lambda r: _optional(r["of_limit"], ".0%").rstrip("%"),
    "cpu": lambda r: f"{r['cpu_info']} {r['cpu_form']}",
    "read GB/s": lambda r: _optional(r["limit_read_gbs"], ".1f"),
    "byte GOPS": lambda r: _optional(r["limit_dot_gops"], ".0f"),
    "short GOPS": lambda r: _optional(r["limit_short_gops"], ".0f"),
    "single GOPS": lambda r: _optional(r["limit_fma_gops"], ".0f"),
}
_WRITERS: dict[str, Callable[[Iterator[Row]], Iterator[str]]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "sql": _sql,
}
