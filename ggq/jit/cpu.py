"""Which processor the kernels are for: its name, its features, and the form of kernel they allow.

`GGQ_CPU=generic|avx2|avxvnni|avx512|neon|dotprod|i8mm` forces a lower form than the processor could
run. Code of a forced form is made for a processor that has that form's features and no others, so
what a lesser machine would run can be tested here.
"""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from ggq.errors import GGQError
from ggq.jit import store

_HOST = "processor"
# Form -> the sets of features, as LLVM names them, any one of which is enough; best form first.
FORMS: dict[str, list[frozenset[str]]] = {
    "avx512": [frozenset("avx512f avx512bw avx512vl avx512dq avx512vnni f16c fma".split())],
    "avxvnni": [
        frozenset("avx2 avxvnni f16c fma".split()),
        frozenset("avx2 avx512vl avx512vnni f16c fma".split()),
    ],
    "avx2": [frozenset("avx2 f16c fma".split())],
    "i8mm": [frozenset("neon dotprod i8mm".split())],
    "dotprod": [frozenset("neon dotprod".split())],
    "neon": [frozenset(["neon"])],
    "generic": [frozenset()],
}


class Machine(NamedTuple):
    """A processor code is made for: LLVM's name of it, the features it has, those it lacks."""

    name: str
    features: frozenset[str]
    lacks: frozenset[str] = frozenset()

    @property
    def flags(self) -> str:
        """The features as LLVM takes them."""
        return ",".join(
            [f"+{each}" for each in sorted(self.features)]
            + [f"-{each}" for each in sorted(self.lacks)]
        )

    @classmethod
    def of(cls, name: str, flags: str) -> Machine:
        """The machine of a name and of `flags`."""
        signed = flags.split(",")
        has, lacks = (frozenset(f[1:] for f in signed if f[:1] == sign) for sign in "+-")
        return cls(name, has, lacks)


@cache
def host() -> Machine:
    """This processor. What LLVM says of it is kept, for loading LLVM takes long."""
    kept = store.load(_HOST)
    if kept is not None:
        name, _, flags = kept.decode().partition(" ")
        return Machine.of(name, flags)
    found = _detected()
    store.save(_HOST, f"{found.name} {found.flags}".encode())
    return found


def _detected() -> Machine:
    import llvmlite.binding as llvm

    found = dict(llvm.get_host_cpu_features())
    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        from ggq.jit.arm_features import arm_features

        found |= arm_features()
    has = frozenset(name for name, on in found.items() if on)
    return Machine(llvm.get_host_cpu_name(), has, frozenset(found) - has)


def forms() -> list[str]:
    """The forms this processor can run, best first."""
    features = host().features
    return [name for name, needs in FORMS.items() if any(n <= features for n in needs)]


def form() -> str:
    """The form of kernel to use: the best this processor runs, or the one `GGQ_CPU` forces."""
    return _form(os.environ.get("GGQ_CPU", ""), host().features)


@cache
def _form(wanted: str, features: frozenset[str]) -> str:
    possible = forms()
    if not wanted:
        return possible[0]
    if wanted not in FORMS:
        raise GGQError(f"GGQ_CPU={wanted} is not known; use one of {', '.join(FORMS)}")
    if wanted not in possible:
        missing = ", ".join(sorted(FORMS[wanted][0] - features))
        raise GGQError(f"GGQ_CPU={wanted} needs {missing}, which this processor lacks")
    return wanted


def machine() -> Machine:
    """The processor code is made for: this one, or the least one that runs a forced lower form."""
    used, own = form(), host()
    if used == forms()[0]:
        return own
    needs = next(needs for needs in FORMS[used] if needs <= own.features)
    return Machine("generic", needs)
