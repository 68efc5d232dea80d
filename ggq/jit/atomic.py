"""Atomic memory and the spin-wait hint: what threads of one kernel talk through."""

from __future__ import annotations

import platform
import sys

from ggq.jit import isa
from ggq.jit.lang import Value, call, const, i32, i64, trace

# Number of the system call; uapi/asm-generic/unistd.h, arch/x86/entry/syscalls/syscall_64.tbl.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine() if sys.platform == "linux" else "")
_WAIT, _WAKE = 128, 129  # FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE


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


def sleep_while(address: Value, expected: Value) -> None:
    """Let this thread sleep while a 64-bit word holds `expected`; it may wake for no reason.

    Where the system has no such sleep, others are offered the core for a moment.
    """
    if _FUTEX is None:
        call("SwitchToThread" if sys.platform == "win32" else "sched_yield", i32)
        return
    # The low half of the word is compared, which is as good: it changes with every step.
    call("syscall", i64, const(i64, _FUTEX), address, const(i64, _WAIT), expected, const(i64, 0))


def wake_all(address: Value) -> None:
    """Wake the threads that sleep on a word; it must have been changed before."""
    if _FUTEX is not None:
        everybody = const(i64, (1 << 31) - 1)
        call("syscall", i64, const(i64, _FUTEX), address, const(i64, _WAKE), everybody)
