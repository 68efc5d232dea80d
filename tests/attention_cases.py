"""Attention through the graph, against a dense softmax of numpy: python -m tests.attention_cases

Prints the cases that fail, each with its error; the form of kernel is GGQ_CPU's.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.runtime.arch._base import RopeScaling
from ggq.runtime.graph import Graph, Phase, Rows
from ggq.runtime.kernels._op import N_TOKENS, POSITION, STATE_WORDS
from ggq.runtime.kvcache import KVCache
from ggq.runtime.rope import RopeTable
from ggq.runtime.threads import Program, Team

F32 = npt.NDArray[np.float32]
ROPE_BASE = 10000.0
# Of the range of the output. A cache's rounding moves scores and values; the reference rounds the
# same way where it can, so what is left is the order of sums, and queries rounded to bytes.
TOLERANCE = {"f32": 3e-6, "f16": 1e-3, "bf16": 8e-3, "q8_0": 1e-2, "q4_0": 0.15}
ROUNDED = 5e-4  # of queries, keys, values and weights that become 16 bits


@dataclass(frozen=True)
class Case:
    """`runs` are the tokens of consecutive runs."""

    dims: int = 64
    heads: int = 3
    heads_kv: int = 1
    window: int = 0
    softcap: float = 0.0
    neox: bool = False
    type_k: str = "f32"
    type_v: str = "f32"
    rounded: bool = False
    runs: tuple[int, ...] = (1, 1, 1)
    threads: int = 1

    @property
    def positions(self) -> int:
        return sum(self.runs)


def numbers(case: Case) -> tuple[F32, F32, F32]:
    """q [T, H, D], k and v [T, Hkv, D]."""
    rng = np.random.default_rng(case.dims * 1000 + case.positions)
    shapes = [(case.positions, n, case.dims) for n in (case.heads, case.heads_kv, case.heads_kv)]
    q, k, v = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return q * 2, k, v


def run(case: Case) -> F32:
    """[T, H, D] as the kernels make it, run by run."""
    q, k, v = numbers(case)
    n_ctx = case.positions
    cache = KVCache(1, case.heads_kv, case.dims, n_ctx, case.type_k, case.type_v)
    ropes: dict[Hashable, RopeTable] = {}
    team = Team(case.threads)
    out, done = [], 0
    for count in case.runs:
        phase = Phase.DECODE if count == 1 else Phase.FEW if count <= 8 else Phase.PREFILL
        graph = Graph(phase, {}, count, cache, ropes)
        rope = graph.rope(case.dims, ROPE_BASE, RopeScaling())
        rows = [
            _filled(graph, name, x[done : done + count], case.rounded)
            for name, x in zip("qkv", (q, k, v), strict=True)
        ]
        made = graph.attention(
            *rows, 0, heads_q=case.heads, heads_kv=case.heads_kv, dims=case.dims, rope=rope,
            neox=case.neox, scale=case.dims**-0.5, window=case.window, softcap=case.softcap,
        )  # fmt: skip
        program = graph.program(case.threads)
        rope.fill(done + count)
        state = np.zeros(STATE_WORDS, np.int64)
        state[[N_TOKENS, POSITION]] = count, done
        team.run(program, state)
        out.append(_result(graph, program, made, count).reshape(count, case.heads, case.dims))
        done += count
    team.close()
    return np.concatenate(out)


def _filled(graph: Graph, name: str, x: F32, rounded: bool) -> Rows:
    rows = replace(graph._rows(name, x[0].size), rounded=rounded)
    memory = graph._keep_of(rows.word).view(np.float32).reshape(-1, rows.stride // 4)
    memory[: len(x), : x[0].size] = x.reshape(len(x), -1)
    memory[len(x) :] = np.nan
    return rows


def _result(graph: Graph, program: Program, rows: Rows, count: int) -> F32:
    if rows.stride:
        memory = graph._keep_of(rows.word).view(np.float32).reshape(-1, rows.stride // 4)
        return memory[:count, : rows.cols].copy()
    start = rows.word & ~(1 << 62)
    own = program.own[start : start + 4 * rows.cols]
    return own.view(np.float32).copy()


def rotated(x: F32, neox: bool) -> npt.NDArray[np.float64]:
    """[T, H, D] with rotary positions."""
    T, _, D = x.shape
    angles = np.arange(T)[:, None] * ROPE_BASE ** (-np.arange(0, D, 2) / D)
    cos, sin = (f(angles)[:, None, :] for f in (np.cos, np.sin))
    a, b = (x[..., : D // 2], x[..., D // 2 :]) if neox else (x[..., ::2], x[..., 1::2])
    low, high = a * cos - b * sin, a * sin + b * cos
    if neox:
        return np.concatenate([low, high], -1)
    return np.stack([low, high], -1).reshape(x.shape)


def reference(case: Case) -> npt.NDArray[np.float64]:
    """[T, H, D]: softmax over all visible positions, in double precision."""
    q, k, v = numbers(case)
    q, k = rotated(q, case.neox), rotated(k, case.neox)
    group = case.heads // case.heads_kv
    k, v = (np.repeat(x.astype(np.float64), group, 1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) * case.dims**-0.5
    if case.softcap:
        scores = case.softcap * np.tanh(scores / case.softcap)
    t, s = np.ogrid[: case.positions, : case.positions]
    hidden = (s > t) | ((s <= t - case.window) if case.window else False)
    scores[:, hidden] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shd->thd", weights, v)


def error(case: Case) -> float:
    """Largest error in units of the output's range."""
    wanted = reference(case)
    return float(np.abs(run(case) - wanted).max() / np.ptp(wanted))


def tolerance(case: Case) -> float:
    """What `error` stays below."""
    of_cache = max(TOLERANCE[case.type_k], TOLERANCE[case.type_v])
    return of_cache + case.rounded * ROUNDED


def cases() -> list[Case]:
    """Odd positions, borders of blocks, groups, windows, caps, widths of heads, types."""
    few = (1,) * 3 + (2, 5, 8, 7) + (1,) * 3
    borders = (100, 8, 8, 8, 8, 1, 1, 120, 1, 1, 5, 1)
    widths, groups = (
        (8, 16, 64, 80, 96, 128, 256),
        ((1, 1), (4, 2), (5, 1), (7, 1), (9, 3), (16, 2)),
    )
    typed = (130, 1, 8, 33, 1)
    return [
        Case(runs=few),
        Case(runs=borders),
        Case(runs=(130, 1, 300)),
        Case(softcap=3.0, runs=(140, 1, 8, 1)),
        *(Case(dims=d, runs=(40, 3, 1, 90, 1), neox=d % 16 == 0) for d in widths),
        *(Case(heads=h, heads_kv=kv, runs=(40, 3, 1, 100, 1)) for h, kv in groups),
        *(Case(window=w, runs=(140, 1, 8, 150, 1, 3, 1)) for w in (1, 2, 16, 100, 129, 200)),
        *(Case(type_k=n, type_v=n, dims=d, runs=typed) for n in TOLERANCE for d in (64, 96, 128)),
        Case(type_k="q8_0", type_v="f16", runs=typed),
        Case(type_k="f16", type_v="q8_0", runs=typed),
        *map(rounded, (borders, (130, 1, 300), (9, 128, 119, 256))),
        rounded((140, 20), softcap=3.0),
        *(rounded((40, 3, 90), dims=d) for d in widths),
        *(rounded((40, 1, 100), heads=h, heads_kv=kv) for h, kv in groups),
        *(rounded((141, 9, 150), window=w) for w in (1, 2, 17, 100, 129)),
        *(rounded((130, 1, 33), type_k=n, type_v=n, dims=96) for n in TOLERANCE),
    ]


def rounded(runs: tuple[int, ...], **kwargs: Any) -> Case:
    """A case in which numbers may be rounded to 16 bits where they meet many tokens."""
    return Case(runs=runs, rounded=True, **kwargs)


def main() -> None:
    """Check every case, then that no number of threads changes a bit."""
    for case in cases():
        found = error(case)
        if "-v" in sys.argv or not found < tolerance(case):
            print(f"{found:.1e} {case}", flush=True)
    for name in TOLERANCE:
        case = Case(heads=6, heads_kv=2, type_k=name, type_v=name, runs=(200, 1, 8, 200, 1, 1))
        one = run(case)
        for threads in (2, 3, 4):
            if not np.array_equal(run(replace(case, threads=threads)), one):
                print(f"another result with {threads} threads: {case}", flush=True)
    for case in (Case(heads=4), rounded((), heads=4), rounded((), heads=4, window=70)):
        parts = [run(replace(case, runs=runs)) for runs in ((300,), (128, 172), (64, 136, 100))]
        if not all(np.array_equal(part, parts[0]) for part in parts):
            print(f"another result with other runs: {case}", flush=True)
    print("done")


if __name__ == "__main__":
    main()
