"""The vocabulary kernels are written in: scalars and SIMD vectors as Python values.

A kernel is a Python function that runs once, when it is compiled. Every operation on a `Value`
appends an instruction, so Python's own `for` unrolls, `loop` makes a real loop, and a formula
reads as one:

    total = var(zeros(f32 * 16))
    for i in loop(0, n, 16):
        total += load(f32 * 16, x + 4 * i) * load(f32 * 16, y + 4 * i)
    store(out, hsum(total))

Nothing here reorders or fuses arithmetic: `a * b + c` rounds twice, `fma(a, b, c)` once.
Addresses are plain 64-bit integers. Source of the instruction set: LLVM language reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_UNDEFINED = -1


class Trace:
    """The function being written: llvmlite's `ir` module and its builder."""

    current: Trace | None = None

    def __init__(self, ir: Any, builder: Any) -> None:
        self.ir = ir
        self.builder = builder
        self.tables: dict[tuple[Type, tuple[int | float, ...]], Any] = {}

    def __enter__(self) -> Trace:
        self._outer, Trace.current = Trace.current, self
        return self

    def __exit__(self, *_: object) -> None:
        Trace.current = self._outer


def trace() -> Trace:
    """The function being written; an error outside of a kernel."""
    if Trace.current is None:
        raise RuntimeError("this runs only while a kernel is being compiled")
    return Trace.current


@dataclass(frozen=True)
class Type:
    """`kind` i (signed), u (unsigned) or f (float), width in bits, number of lanes (0: scalar)."""

    kind: str
    bits: int
    lanes: int = 0

    def __mul__(self, lanes: int) -> Type:
        """`f32 * 16` is a vector of 16 singles."""
        return Type(self.kind, self.bits, lanes)

    @property
    def scalar(self) -> Type:
        """Type of one lane."""
        return Type(self.kind, self.bits)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole vector."""
        return self.bits // 8 * max(self.lanes, 1)

    @property
    def llvm(self) -> Any:
        """The llvmlite type."""
        ir = trace().ir
        if self.kind == "f":
            element = {16: ir.HalfType(), 32: ir.FloatType(), 64: ir.DoubleType()}[self.bits]
        else:
            element = ir.IntType(self.bits)
        return ir.VectorType(element, self.lanes) if self.lanes else element

    @property
    def suffix(self) -> str:
        """How LLVM's intrinsics name the type: v16f32."""
        return (
            f"v{self.lanes}" if self.lanes else ""
        ) + f"{'f' if self.kind == 'f' else 'i'}{self.bits}"


bit = Type("u", 1)
i8, i16, i32, i64 = (Type("i", n) for n in (8, 16, 32, 64))
u8, u16, u32, u64 = (Type("u", n) for n in (8, 16, 32, 64))
f16, f32, f64 = (Type("f", n) for n in (16, 32, 64))


class Value:
    """One scalar or vector inside a kernel."""

    def __init__(self, type: Type, llvm: Any) -> None:
        self.type = type
        self._llvm = llvm

    @property
    def llvm(self) -> Any:
        """The llvmlite value."""
        return self._llvm

    @property
    def value(self) -> Value:
        """The value as it is now (a `Var` changes later)."""
        return Value(self.type, self.llvm)

    def _binary(self, other: Any, names: tuple[str, str, str], swap: bool = False) -> Value:
        a, b = _pair(self, other)
        if swap:
            a, b = b, a
        name = names["iuf".index(a.type.kind)]
        if not name:
            raise TypeError(f"no such operation on {a.type}")
        return Value(a.type, getattr(trace().builder, name)(a.llvm, b.llvm))

    def __add__(self, o: Any) -> Value:
        return self._binary(o, ("add", "add", "fadd"))

    __radd__ = __add__

    def __sub__(self, o: Any) -> Value:
        return self._binary(o, ("sub", "sub", "fsub"))

    def __rsub__(self, o: Any) -> Value:
        return self._binary(o, ("sub", "sub", "fsub"), swap=True)

    def __mul__(self, o: Any) -> Value:
        return self._binary(o, ("mul", "mul", "fmul"))

    __rmul__ = __mul__

    def __truediv__(self, o: Any) -> Value:
        return self._binary(o, ("", "", "fdiv"))

    def __rtruediv__(self, o: Any) -> Value:
        return self._binary(o, ("", "", "fdiv"), swap=True)

    def __floordiv__(self, o: Any) -> Value:
        """Integer quotient, rounded toward zero."""
        return self._binary(o, ("sdiv", "udiv", ""))

    def __mod__(self, o: Any) -> Value:
        return self._binary(o, ("srem", "urem", ""))

    def __and__(self, o: Any) -> Value:
        return self._binary(o, ("and_", "and_", ""))

    __rand__ = __and__

    def __or__(self, o: Any) -> Value:
        return self._binary(o, ("or_", "or_", ""))

    __ror__ = __or__

    def __xor__(self, o: Any) -> Value:
        return self._binary(o, ("xor", "xor", ""))

    def __lshift__(self, o: Any) -> Value:
        return self._binary(o, ("shl", "shl", ""))

    def __rshift__(self, o: Any) -> Value:
        """Arithmetic shift of signed values, logical of unsigned ones."""
        return self._binary(o, ("ashr", "lshr", ""))

    def __neg__(self) -> Value:
        if self.type.kind == "f":
            return Value(self.type, trace().builder.fneg(self.llvm))
        return const(self.type, 0) - self

    def __invert__(self) -> Value:
        return self ^ const(self.type, 1 if self.type.bits == 1 else -1)

    def _compare(self, o: Any, op: str) -> Value:
        a, b = _pair(self, o)
        build = trace().builder
        method = {"i": build.icmp_signed, "u": build.icmp_unsigned, "f": build.fcmp_ordered}[
            a.type.kind
        ]
        if op == "!=" and a.type.kind == "f":
            method = build.fcmp_unordered
        return Value(bit * a.type.lanes, method(op, a.llvm, b.llvm))

    def __lt__(self, o: Any) -> Value:
        return self._compare(o, "<")

    def __le__(self, o: Any) -> Value:
        return self._compare(o, "<=")

    def __gt__(self, o: Any) -> Value:
        return self._compare(o, ">")

    def __ge__(self, o: Any) -> Value:
        return self._compare(o, ">=")

    def eq(self, o: Any) -> Value:
        """Lane-wise equality. Not `==`, which Python needs for its own purposes."""
        return self._compare(o, "==")

    def ne(self, o: Any) -> Value:
        """Lane-wise inequality."""
        return self._compare(o, "!=")

    def __bool__(self) -> bool:
        raise TypeError("a kernel value has no truth while compiling; use `when` or `select`")

    def __getitem__(self, lane: int | Value) -> Value:
        index = lane.llvm if isinstance(lane, Value) else const(i32, lane).llvm
        return Value(self.type.scalar, trace().builder.extract_element(self.llvm, index))

    def with_lane(self, lane: int | Value, x: Any) -> Value:
        """The vector with one lane replaced."""
        index = lane.llvm if isinstance(lane, Value) else const(i32, lane).llvm
        x = _cast(x, self.type.scalar)
        return Value(self.type, trace().builder.insert_element(self.llvm, x.llvm, index))

    def bits(self, type: Type) -> Value:
        """The same bytes read as another type."""
        if type.nbytes != self.type.nbytes and type.bits != 1 and self.type.bits != 1:
            raise TypeError(f"{self.type} has {self.type.nbytes} bytes, {type} {type.nbytes}")
        return Value(type, trace().builder.bitcast(self.llvm, type.llvm))

    def to(self, type: Type) -> Value:
        """The same numbers in another element type; float to integer truncates toward zero."""
        target = type.scalar * self.type.lanes
        source = self.type
        if (target.kind == "f") == (source.kind == "f") and target.bits == source.bits:
            return Value(target, self.llvm)
        build = trace().builder
        if source.kind == "f" and target.kind == "f":
            name = "fpext" if target.bits > source.bits else "fptrunc"
        elif source.kind == "f":
            name = "fptosi" if target.kind == "i" else "fptoui"
        elif target.kind == "f":
            name = "sitofp" if source.kind == "i" else "uitofp"
        elif target.bits < source.bits:
            name = "trunc"
        else:
            name = "sext" if source.kind == "i" else "zext"
        return Value(target, getattr(build, name)(self.llvm, target.llvm))


class Var(Value):
    """A variable: `v += x` and `v.set(x)` change it, also inside loops."""

    def __init__(self, start: Value) -> None:
        self.type = start.type
        build = trace().builder
        with build.goto_entry_block():
            self._slot = build.alloca(start.type.llvm)
        build.store(start.llvm, self._slot)

    @property
    def llvm(self) -> Any:
        """The llvmlite value of this moment."""
        return trace().builder.load(self._slot, typ=self.type.llvm)

    def set(self, x: Any) -> None:
        """Assign."""
        trace().builder.store(_cast(x, self.type).llvm, self._slot)

    def __iadd__(self, o: Any) -> Var:  # type: ignore[misc]
        self.set(self + o)
        return self

    def __isub__(self, o: Any) -> Var:  # type: ignore[misc]
        self.set(self - o)
        return self


def const(type: Type, x: Any) -> Value:
    """A constant: one number for all lanes, or a sequence with one per lane."""
    ir = trace().ir
    if type.lanes:
        lanes = list(x) if isinstance(x, (list, tuple, range)) else [x] * type.lanes
        if len(lanes) != type.lanes:
            raise TypeError(f"{len(lanes)} constants for {type.lanes} lanes")
        element = type.scalar.llvm
        return Value(
            type, ir.Constant(type.llvm, [ir.Constant(element, _number(type, v)) for v in lanes])
        )
    return Value(type, ir.Constant(type.llvm, _number(type, x)))


def _number(type: Type, x: Any) -> Any:
    return float(x) if type.kind == "f" else int(x)


def zeros(type: Type) -> Value:
    """All lanes zero."""
    return const(type, 0)


def undefined(type: Type) -> Value:
    """Any lanes; only for building a vector lane by lane."""
    return Value(type, trace().ir.Constant(type.llvm, trace().ir.Undefined))


def var(start: Value) -> Var:
    """A variable that starts as `start`."""
    return Var(start)


def _cast(x: Any, type: Type) -> Value:
    if not isinstance(x, Value):
        return const(type, x)
    if x.type.lanes == 0 and type.lanes:
        x = splat(x, type.lanes)
    if (x.type.kind == "f", x.type.bits, x.type.lanes) != (type.kind == "f", type.bits, type.lanes):
        raise TypeError(f"{x.type} where {type} is wanted; convert with .to() or .bits()")
    return x


def _pair(a: Value, b: Any) -> tuple[Value, Value]:
    if isinstance(b, Value) and b.type.lanes and not a.type.lanes:
        a = splat(a, b.type.lanes)
    return a, _cast(b, a.type)


def splat(x: Value, lanes: int) -> Value:
    """A vector with the scalar in every lane."""
    one = undefined(x.type * lanes).with_lane(0, x)
    return shuffle(one, [0] * lanes)


def shuffle(a: Value, lanes: Sequence[int], b: Value | None = None) -> Value:
    """Lanes of `a` followed by `b`, picked by constant numbers."""
    second = b if b is not None else undefined(a.type)
    mask = const(i32 * len(lanes), list(lanes))
    picked = trace().builder.shuffle_vector(a.llvm, second.llvm, mask.llvm)
    return Value(a.type * len(lanes), picked)


def concat(*parts: Value) -> Value:
    """The lanes of all parts in order; the parts are of equal length, a power of two of them."""
    while len(parts) > 1:
        n = parts[0].type.lanes
        parts = tuple(
            shuffle(parts[i], range(2 * n), parts[i + 1]) for i in range(0, len(parts), 2)
        )
    return parts[0]


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
            array, [t.ir.Constant(type.llvm, _number(type, v)) for v in numbers]
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
        a, b = _pair(a, b)
    else:
        b, a = _pair(b, a)
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
    """a * b + c, rounded once."""
    a, b = _pair(a, b)
    return _float_call("fma", a, b, _cast(c, a.type))


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


def loop(start: Any, stop: Any = None, step: Any = 1) -> Iterator[Value]:
    """`for i in loop(n)`: a loop of the compiled kernel over i64 numbers, like range."""
    build = trace().builder
    if stop is None:
        start, stop = 0, start
    stop = _cast(stop, i64)
    counter = var(_cast(start, i64).value)
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
