"""The compiler policy, in one place: `@kernel` turns a Python function into machine code.

A kernel is compiled by numba when it is first needed and kept on disk (`store`); later processes
load the machine code through llvmlite and never import numba. Importing a module full of kernels
compiles nothing and imports neither.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from ggq.jit import store

__all__ = ["Kernel", "kernel", "prepare"]

log = logging.getLogger("ggq")
_lock = threading.RLock()
_engine: Any = None
_keep_alive: list[Any] = []


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


def prepare(kernels: list[Kernel]) -> None:
    """Load, or compile and keep, the kernels. Each compilation is logged at level INFO."""
    with _lock:
        missing = {k.symbol: k for k in kernels if not k._address}
        kept = {symbol: store.load(symbol) for symbol in missing}
        new = [symbol for symbol, code in kept.items() if code is None]
        for symbol, each in missing.items():
            code = kept[symbol]
            if code is None:
                from ggq.jit.compile import compile_kernel

                log.info(
                    "compiling kernel %d of %d for this processor (once): %s",
                    new.index(symbol) + 1, len(new), each.name,
                )  # fmt: skip
                code = compile_kernel(symbol, each._body, each.n_args)
                store.save(symbol, code)
            _add_object(symbol, code)
        if missing:
            _engine.finalize_object()
        for symbol, each in missing.items():
            each._address = _addresses(symbol)
        for each in kernels:
            if not each._address:
                each._address = _addresses(each.symbol)


_loaded: set[str] = set()


def _add_object(symbol: str, code: bytes) -> None:
    global _engine
    import llvmlite.binding as llvm

    if _engine is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
        module = llvm.parse_assembly("")
        module.triple = llvm.get_process_triple()
        _engine = llvm.create_mcjit_compiler(module, machine)
    if symbol in _loaded:
        return
    _loaded.add(symbol)
    parsed = llvm.ObjectFileRef.from_data(code)
    _keep_alive.append(parsed)
    _engine.add_object_file(parsed)


def _addresses(symbol: str) -> int:
    address: int = _engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"no function {symbol} in the kept machine code")
    return address
