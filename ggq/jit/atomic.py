"""Atomic memory and the spin-wait hint: what threads of one kernel talk through."""

from __future__ import annotations

from ggq.jit import isa
from ggq.jit.lang import Value, call, i64, trace


def atomic_load(address: Value) -> Value:
    """Read an aligned 64-bit word; later reads and writes stay behind it."""
    pointer = trace().builder.inttoptr(address.llvm, i64.llvm.as_pointer())
    return Value(i64, trace().builder.load_atomic(pointer, "seq_cst", 8, typ=i64.llvm))


def atomic_store(address: Value, x: Value) -> None:
    """Write an aligned 64-bit word; earlier reads and writes stay before it."""
    pointer = trace().builder.inttoptr(address.llvm, i64.llvm.as_pointer())
    trace().builder.store_atomic(x.llvm, pointer, "release", 8)


def atomic_add(address: Value, x: Value) -> Value:
    """Add to a 64-bit word, giving what it held before."""
    pointer = trace().builder.inttoptr(address.llvm, i64.llvm.as_pointer())
    return Value(i64, trace().builder.atomic_rmw("add", pointer, x.llvm, "seq_cst"))


def atomic_exchange(address: Value, x: Value) -> Value:
    """Write a 64-bit word, giving what it held before."""
    pointer = trace().builder.inttoptr(address.llvm, i64.llvm.as_pointer())
    return Value(i64, trace().builder.atomic_rmw("xchg", pointer, x.llvm, "seq_cst"))


def atomic_replace(address: Value, expected: Value, x: Value) -> Value:
    """Write a 64-bit word if it holds `expected`, giving what it held before."""
    build = trace().builder
    pointer = build.inttoptr(address.llvm, i64.llvm.as_pointer())
    pair = build.cmpxchg(pointer, expected.llvm, x.llvm, "seq_cst", "seq_cst")
    return Value(i64, build.extract_value(pair, 0))


def pause() -> None:
    """Tell the core that this is a spin-wait, where it has such a hint."""
    hint = isa.target().pause_intrinsic
    if hint:
        call(hint[0], None, *hint[1]())
