"""Scalars and vectors of a kernel as Python values: types, arithmetic, lanes.

Source of the instruction set: LLVM language reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


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


@contextmanager
def discarded() -> Iterator[None]:
    """What is traced inside is thrown away; only for seeing what would be traced."""
    ir = trace().ir
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "discarded")
    with Trace(ir, ir.IRBuilder(function.append_basic_block("entry"))):
        yield


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
        a, b = pair(self, other)
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
        a, b = pair(self, o)
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
        x = cast(x, self.type.scalar)
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
        trace().builder.store(cast(x, self.type).llvm, self._slot)

    def __iadd__(self, o: Any) -> Var:
        self.set(self + o)
        return self

    def __isub__(self, o: Any) -> Var:
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
            type, ir.Constant(type.llvm, [ir.Constant(element, number(type, v)) for v in lanes])
        )
    return Value(type, ir.Constant(type.llvm, number(type, x)))


def number(type: Type, x: Any) -> Any:
    """X as the Python number a constant of `type` is made of."""
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


def cast(x: Any, type: Type) -> Value:
    """X as a value of `type`: a number becomes a constant, a scalar a vector of it."""
    if not isinstance(x, Value):
        return const(type, x)
    value: Value = splat(x, type.lanes) if type.lanes and not x.type.lanes else x
    found = value.type
    if (found.kind == "f", found.bits, found.lanes) != (type.kind == "f", type.bits, type.lanes):
        raise TypeError(f"{found} where {type} is wanted; convert with .to() or .bits()")
    return value


def pair(a: Value, b: Any) -> tuple[Value, Value]:
    """Both as values of one type."""
    if isinstance(b, Value) and b.type.lanes and not a.type.lanes:
        a = splat(a, b.type.lanes)
    return a, cast(b, a.type)


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
    whole: Value = parts[0]
    return whole
