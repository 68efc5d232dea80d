"""The compiler policy, in one place: `@kernel` turns a Python function into machine code.

A kernel is compiled by numba when it is first needed and kept on disk (`store`); later processes
load the machine code (`loader`) and never import numba. Importing a module full of kernels
compiles nothing and imports neither.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from ggq.jit import cpu, loader, store

__all__ = ["Kernel", "kernel", "prepare", "watch", "without_code"]

log = logging.getLogger("ggq")
_lock = threading.RLock()


class Kernel:
    """One compiled function, void(int64, ...). Calling it releases the interpreter lock."""

    def __init__(self, name: str, body: Callable[..., None], n_args: int) -> None:
        self.name = name
        self.n_args = n_args
        self._body = body
        self._address = 0
        self._call: Any = None

    @property
    def symbol(self) -> str:
        """Name of the function in the object file."""
        return "ggq_" + "".join(c if c.isalnum() else "_" for c in self.name)

    @property
    def address(self) -> int:
        """Address of the machine code; compiles or loads it when first asked."""
        if not self._address:
            with _lock:
                if not self._address:
                    prepare([self])
        return self._address

    def __call__(self, *args: int) -> None:
        if self._call is None:
            signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self.n_args)
            self._call = signature(self.address)
        self._call(*args)

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"


def kernel(function: Callable[..., None]) -> Kernel:
    """Decorator: the function's parameters are 64-bit integers, its body uses `ggq.jit.lang`."""
    module = function.__module__.rpartition(".")[2].strip("_")
    return Kernel(
        f"{module}.{function.__name__}", function, len(inspect.signature(function).parameters)
    )


def watch(show: Callable[[int, int], None]) -> None:
    """Have `show` called with how many kernels are compiled, of how many, whenever some are."""
    global _show
    _show = show


def without_code(kernels: list[Kernel]) -> list[Kernel]:
    """Those that are neither loaded nor kept from an earlier run."""
    form = cpu.form()
    return [k for k in kernels if not (k._address or store.has(f"{k.symbol}.{form}.o"))]


def prepare(kernels: list[Kernel]) -> None:
    """Load, or compile and keep, the kernels. Each compilation is logged at level INFO."""
    with _lock:
        missing = {kernel.symbol: kernel for kernel in kernels if not kernel._address}
        if not missing:
            return
        form = cpu.form()
        kept = {symbol: store.load(f"{symbol}.{form}.o") for symbol in missing}
        new = [symbol for symbol, code in kept.items() if code is None]
        for number, symbol in enumerate(new, 1):
            from ggq.jit.compile import compile_kernel

            each = missing[symbol]
            log.info(
                "compiling kernel %d of %d for this processor (once): %s",
                number, len(new), each.name,
            )  # fmt: skip
            _show(number - 1, len(new))
            kept[symbol] = code = compile_kernel(symbol, each._body, each.n_args)
            store.save(f"{symbol}.{form}.o", code)
        if new:
            _show(len(new), len(new))
        addresses = {symbol: loader.load(symbol, code) for symbol, code in kept.items() if code}
        for kernel in kernels:
            kernel._address = kernel._address or addresses[kernel.symbol]


def _show_nothing(done: int, total: int) -> None:
    pass


_show: Callable[[int, int], None] = _show_nothing
