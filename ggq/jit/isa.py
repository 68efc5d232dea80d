"""Which form of kernel is being compiled: vector width, and operations without a portable name.

A kernel asks `target()` while it is compiled; everything else in it is the same for all. The forms
of a family of processors share a file: generic.py, x86.py, arm.py.
"""

from __future__ import annotations

from functools import cache

from ggq.jit import cpu
from ggq.jit.arm import DotProd, I8mm, Neon
from ggq.jit.generic import Generic
from ggq.jit.lang import Type
from ggq.jit.x86 import Avx2, Avx512, AvxVnni

FORMS: dict[str, type[Generic]] = {
    "avx512": Avx512,
    "avxvnni": AvxVnni,
    "avx2": Avx2,
    "i8mm": I8mm,
    "dotprod": DotProd,
    "neon": Neon,
    "generic": Generic,
}


@cache
def of(form: str) -> Generic:
    """The operations of a form, by its name in `cpu.FORMS`."""
    return FORMS[form]()


def target() -> Generic:
    """The form kernels are compiled for now."""
    return of(cpu.form())


def vector(type: Type) -> Type:
    """The target's full vector of an element type."""
    return type * (target().nbytes * 8 // type.bits)
