"""How far the logits of a model are from those of a reference, token by token."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggq.convert.eval._compare import (
    CROSS,
    LEAST_COLUMNS,
    MAX_P,
    MAX_Q,
    SUM_P,
    SUM_Q,
    TOP_P,
    TOP_Q,
    WORDS,
    compare_kernel,
)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
LLAMA_FLOOR = -16.0  # log-probabilities llama.cpp's base files do not go below


@dataclass(frozen=True)
class Compared:
    """What is known of each of T tokens, f64 [T] in nats; `same_top` bool [T].

    `nll`, `reference_nll`: minus the log-probability of the token the text has; `kld`:
    KL(reference || model); `delta_p`: how much likelier the model finds that token.
    """

    nll: F64
    reference_nll: F64
    kld: F64
    delta_p: F64
    same_top: npt.NDArray[np.bool_]


class Comparer:
    """Compares rows of logits on `threads` threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Comparer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self, p: F32, q: F32, targets: I32, *, llama_base: bool = False) -> Compared:
        """Reference logits p and logits q, both f32 [T, V], tokens i32 [T] of the text.

        With `llama_base` p are log-probabilities out of a base file of llama.cpp, and what it does
        with them is done: those at the floor are left out, the others taken as they are.
        """
        words = self._words(p, q, LLAMA_FLOOR if llama_base else None)
        # Logits that are not finite give figures that are not, which the caller looks for.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return _compared(words, p, q, targets, llama_base)

    def _words(self, p: F32, q: F32, floor: float | None) -> F64:
        p, q = _wide(p), _wide(q)
        rows, columns = p.shape
        out = np.empty((rows, WORDS), np.float64)
        kernel = compare_kernel(floor)
        _ = kernel.address  # compiled before threads ask for it

        def part(begin: int, end: int) -> None:
            if begin < end:
                kernel(
                    p[begin:].ctypes.data, p.strides[0], q[begin:].ctypes.data, q.strides[0],
                    end - begin, columns, out[begin:].ctypes.data,
                )  # fmt: skip

        ends = [rows * i // self._threads for i in range(self._threads + 1)]
        list(self._pool.map(part, ends, ends[1:]))
        return out


def _wide(x: F32) -> F32:
    """Rows as they are, or with columns of no probability up to the kernel's least."""
    if x.strides[1] != 4:
        x = np.ascontiguousarray(x)
    missing = LEAST_COLUMNS - x.shape[1]
    return x if missing <= 0 else np.pad(x, ((0, 0), (0, missing)), constant_values=-1e30)


def _compared(words: F64, p: F32, q: F32, targets: I32, llama_base: bool) -> Compared:
    at = np.arange(len(targets))
    max_p, sum_p, cross = words[:, MAX_P], words[:, SUM_P], words[:, CROSS]
    log_sum_q = np.log(words[:, SUM_Q])
    if llama_base:
        log_zp = np.zeros(len(at))
        # The kernel's terms are (p - max p) - (q - max q), wanted are p - (q - ln Z_q).
        kld = np.exp(max_p) * (cross + sum_p * (max_p + log_sum_q))
    else:
        log_zp = max_p + np.log(sum_p)
        kld = cross / sum_p - np.log(sum_p) + log_sum_q
    reference_nll = log_zp - p[at, targets]
    nll = words[:, MAX_Q] + log_sum_q - q[at, targets]
    delta_p = np.exp(-nll) - np.exp(-reference_nll)
    return Compared(nll, reference_nll, kld, delta_p, words[:, TOP_P] == words[:, TOP_Q])
