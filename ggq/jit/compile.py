"""Kernel source -> machine code, through numba. The only place that imports numba.

The calls to numba's code generator are private to it: pyproject.toml pins the minor version and
tests/test_jit.py fails when they stop working.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ggq.jit import cpu
from ggq.jit.lang import Trace, Value, i64


def compile_kernel(symbol: str, body: Callable[..., None], n_args: int) -> bytes:
    """ELF (or Mach-O, COFF) object with one function `symbol`, void(i64 * n_args)."""
    from llvmlite import ir
    from numba.core.compiler_lock import global_compiler_lock

    with global_compiler_lock:
        library = _code_generator(cpu.machine()).create_library(symbol)
        library.enable_object_caching()
        module = library.create_ir_module(symbol)
        write_kernel(ir, module, symbol, body, n_args)
        library.add_ir_module(module)
        library.finalize()
        _, kind, data = library.serialize_using_object_code()
    if kind != "object":
        raise RuntimeError(f"numba returned {kind!r} where machine code was expected")
    code: bytes = data[0]
    return code


@cache
def _code_generator(machine: cpu.Machine) -> Any:
    """numba's code generator, told which processor to make code for."""
    from numba.core.codegen import JITCPUCodegen

    own = {
        "_get_host_cpu_name": lambda self: machine.name,
        "_get_host_cpu_features": lambda self: machine.flags,
    }
    return type("CodeGenerator", (JITCPUCodegen,), own)("ggq")


def write_kernel(ir: Any, module: Any, symbol: str, body: Callable[..., None], n_args: int) -> None:
    """Run the kernel's Python function once, writing its instructions into the module."""
    word = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * n_args), symbol)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    with Trace(ir, builder):
        body(*(Value(i64, argument) for argument in function.args))
        builder.ret_void()
