"""The vocabulary kernels are written in: scalars and SIMD vectors as Python values.

A kernel is a Python function that runs once, when it is compiled. Every operation on a `Value`
appends an instruction, so Python's own `for` unrolls, `loop` makes a real loop, and a formula
reads as one:

    total = var(zeros(f32 * 16))
    for i in loop(0, n, 16):
        total += load(f32 * 16, x + 4 * i) * load(f32 * 16, y + 4 * i)
    store(out, hsum(total))

Nothing here reorders or fuses arithmetic: `a * b + c` rounds twice, `fma(a, b, c)` once
wherever the processor can.
Addresses are plain 64-bit integers. Source of the instruction set: LLVM language reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ggq.jit.values import (
    Trace,
    Type,
    Value,
    Var,
    bit,
    cast,
    concat,
    const,
    discarded,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    number,
    pair,
    shuffle,
    splat,
    trace,
    u8,
    u16,
    u32,
    u64,
    undefined,
    var,
    zeros,
)

__all__ = [
    "Trace",
    "Type",
    "Value",
    "Var",
    "absolute",
    "bit",
    "call",
    "call_address",
    "concat",
    "const",
    "discarded",
    "f16",
    "f32",
    "f64",
    "floor",
    "fma",
    "gather",
    "hmax",
    "hsum",
    "i8",
    "i16",
    "i32",
    "i64",
    "lane_bits",
    "load",
    "loop",
    "lowest_bit",
    "maximum",
    "minimum",
    "prefetch",
    "repeat_while",
    "rint",
    "scatter",
    "scratch",
    "select",
    "shuffle",
    "splat",
    "split",
    "sqrt",
    "store",
    "table",
    "trace",
    "truncate",
    "u8",
    "u16",
    "u32",
    "u64",
    "undefined",
    "var",
    "when",
    "widen",
    "zeros",
]


def split(v: Value, lanes: int) -> list[Value]:
    """Consecutive parts of `lanes` lanes."""
    return [shuffle(v, range(i, i + lanes)) for i in range(0, v.type.lanes, lanes)]


def widen(v: Value, lanes: int) -> Value:
    """The vector followed by zero lanes."""
    n = v.type.lanes
    return v if n == lanes else shuffle(v, [min(i, n) for i in range(lanes)], zeros(v.type))


def call(name: str, result: Type | None, *args: Value) -> Value:
    """Call an LLVM intrinsic or an outer C symbol by name."""
    t = trace()
    module = t.builder.module
    returned = result.llvm if result else t.ir.VoidType()
    function = module.globals.get(name)
    if function is None:
        signature = t.ir.FunctionType(returned, [a.type.llvm for a in args])
        function = t.ir.Function(module, signature, name)
    out = t.builder.call(function, [a.llvm for a in args])
    return Value(result, out) if result else const(i64, 0)


def call_address(function: Value, *args: Value) -> None:
    """Call the C function void(int64...) at an address."""
    t = trace()
    signature = t.ir.FunctionType(t.ir.VoidType(), [a.type.llvm for a in args])
    pointer = t.builder.inttoptr(function.llvm, signature.as_pointer())
    t.builder.call(pointer, [a.llvm for a in args])


def _pointer(address: Value, type: Type) -> Any:
    return trace().builder.inttoptr(address.llvm, type.llvm.as_pointer())


def load(type: Type, address: Value, align: int = 1) -> Value:
    """Read a value from memory; `align` is what the address is known to be a multiple of."""
    return Value(type, trace().builder.load(_pointer(address, type), align=align, typ=type.llvm))


def store(address: Value, x: Value, align: int = 1) -> None:
    """Write a value to memory."""
    trace().builder.store(x.llvm, _pointer(address, x.type), align=align)


def prefetch(address: Value) -> None:
    """Ask for the cache line at an address to be brought into the second level; never faults."""
    t = trace()
    pointer = t.builder.inttoptr(address.llvm, t.ir.IntType(8).as_pointer())
    _masked("llvm.prefetch.p0", None, pointer, const(i32, 0), const(i32, 2), const(i32, 1))


def scratch(nbytes: int) -> Value:
    """Address of `nbytes` of uninitialized stack memory, 64-byte aligned."""
    t = trace()
    with t.builder.goto_entry_block():
        slot = t.builder.alloca(t.ir.ArrayType(t.ir.IntType(8), nbytes))
        slot.align = 64
        return Value(i64, t.builder.ptrtoint(slot, t.ir.IntType(64)))


def table(type: Type, numbers: Sequence[int | float]) -> Value:
    """Address of a constant array in the kernel's own data, 64-byte aligned; equal ones are one."""
    t = trace()
    key = (type, tuple(numbers))
    if key not in t.tables:
        array = t.ir.ArrayType(type.llvm, len(numbers))
        module = t.builder.module
        data = t.ir.GlobalVariable(module, array, module.get_unique_name("table"))
        data.linkage, data.global_constant, data.align = "internal", True, 64
        data.initializer = t.ir.Constant(
            array, [t.ir.Constant(type.llvm, number(type, v)) for v in numbers]
        )
        t.tables[key] = data
    return Value(i64, t.builder.ptrtoint(t.tables[key], t.ir.IntType(64)))


def gather(type: Type, addresses: Value) -> Value:
    """One load per lane from a vector of 64-bit addresses."""
    t = trace()
    n = addresses.type.lanes
    vector = type * n
    pointers = t.builder.inttoptr(addresses.llvm, t.ir.VectorType(type.llvm.as_pointer(), n))
    name = f"llvm.masked.gather.{vector.suffix}.v{n}p0"
    return _masked(name, vector, pointers, const(i32, 1), const(bit * n, 1), zeros(vector))


def scatter(addresses: Value, x: Value) -> None:
    """One store per lane to a vector of 64-bit addresses."""
    t = trace()
    n = addresses.type.lanes
    pointers = t.builder.inttoptr(
        addresses.llvm, t.ir.VectorType(x.type.scalar.llvm.as_pointer(), n)
    )
    name = f"llvm.masked.scatter.{x.type.suffix}.v{n}p0"
    _masked(name, None, x.llvm, pointers, const(i32, 1), const(bit * n, 1))


def _masked(name: str, result: Type | None, *args: Any) -> Value:
    t = trace()
    values = [a.llvm if isinstance(a, Value) else a for a in args]
    function = t.builder.module.globals.get(name)
    if function is None:
        returned = result.llvm if result else t.ir.VoidType()
        signature = t.ir.FunctionType(returned, [v.type for v in values])
        function = t.ir.Function(t.builder.module, signature, name)
    out = t.builder.call(function, values)
    return Value(result, out) if result else const(i64, 0)


def select(condition: Value, a: Any, b: Any) -> Value:
    """`a` where the condition holds, else `b`, lane by lane."""
    if isinstance(a, Value):
        a, b = pair(a, b)
    else:
        b, a = pair(b, a)
    return Value(a.type, trace().builder.select(condition.llvm, a.llvm, b.llvm))


def minimum(a: Value, b: Any) -> Value:
    """The smaller lane; where either is NaN, `b`."""
    return select(a < b, a, b)


def maximum(a: Value, b: Any) -> Value:
    """The larger lane; where either is NaN, `b`."""
    return select(a > b, a, b)


def _float_call(name: str, *args: Value) -> Value:
    return call(f"llvm.{name}.{args[0].type.suffix}", args[0].type, *args)


def fma(a: Value, b: Any, c: Any) -> Value:
    """a * b + c, rounded once by processors that have an instruction for it, else twice."""
    a, b = pair(a, b)
    return _float_call("fmuladd", a, b, cast(c, a.type))


def sqrt(x: Value) -> Value:
    """Square root, correctly rounded."""
    return _float_call("sqrt", x)


def absolute(x: Value) -> Value:
    """Magnitude."""
    return _float_call("fabs", x) if x.type.kind == "f" else select(x < 0, -x, x)


def rint(x: Value) -> Value:
    """Nearest integer as a float, halves to even."""
    return _float_call("rint", x)


def truncate(x: Value) -> Value:
    """Integer part as a float."""
    return _float_call("trunc", x)


def floor(x: Value) -> Value:
    """Largest integer not above, as a float."""
    return _float_call("floor", x)


def _fold(v: Value, combine: Any) -> Value:
    n = v.type.lanes
    while n > 1:
        n //= 2
        v = combine(shuffle(v, range(n)), shuffle(v, range(n, 2 * n)))
    return v[0]


def hsum(v: Value) -> Value:
    """Sum of all lanes, halves added to halves."""
    return _fold(v, lambda a, b: a + b)


def hmax(v: Value) -> Value:
    """Largest lane."""
    return _fold(v, maximum)


def lowest_bit(x: Value) -> Value:
    """Place of the lowest bit that is set, in a scalar that is not zero."""
    return call(f"llvm.cttz.{x.type.suffix}", x.type, x, const(bit, 1))


def lane_bits(condition: Value) -> Value:
    """u32: the bits of up to 32 lanes, the first one lowest."""
    return condition.bits(Type("u", condition.type.lanes)).to(u32)


def loop(start: Any, stop: Any = None, step: Any = 1) -> Iterator[Value]:
    """`for i in loop(n)`: a loop of the compiled kernel over i64 numbers, like range."""
    build = trace().builder
    if stop is None:
        start, stop = 0, start
    stop = cast(stop, i64)
    counter = var(cast(start, i64).value)
    head, body, done = (build.append_basic_block(n) for n in ("loop", "body", "done"))
    build.branch(head)
    build.position_at_end(head)
    i = counter.value
    build.cbranch((i < stop).llvm, body, done)
    build.position_at_end(body)
    yield i
    counter.set(i + step)
    build.branch(head)
    build.position_at_end(done)


def repeat_while(condition: Any) -> Iterator[None]:
    """`for _ in repeat_while(lambda: x < y)`: loop while the condition, computed anew, holds."""
    build = trace().builder
    head, body, done = (build.append_basic_block(n) for n in ("while", "body", "done"))
    build.branch(head)
    build.position_at_end(head)
    build.cbranch(condition().llvm, body, done)
    build.position_at_end(body)
    yield None
    build.branch(head)
    build.position_at_end(done)


@contextmanager
def when(condition: Value) -> Iterator[None]:
    """`with when(a < b):` runs the body where the scalar condition holds."""
    with trace().builder.if_then(condition.llvm):
        yield
