"""Which processor the kernels are for: its name, its features, and the form of kernel they allow.

`GGQ_CPU=generic|avx2|avxvnni|avx512` forces a lower form than the processor could run.
"""

from __future__ import annotations

import os
from functools import cache

from ggq.errors import GGQError

# Form -> the sets of features, as LLVM names them, any one of which is enough; best form first.
FORMS: dict[str, list[frozenset[str]]] = {
    "avx512": [frozenset("avx512f avx512bw avx512vl avx512dq avx512vnni f16c fma".split())],
    "avxvnni": [
        frozenset("avx2 avxvnni f16c fma".split()),
        frozenset("avx2 avx512vl avx512vnni f16c fma".split()),
    ],
    "avx2": [frozenset("avx2 f16c fma".split())],
    "generic": [frozenset()],
}


@cache
def host() -> tuple[str, frozenset[str]]:
    """LLVM's name of this processor and the features it has."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return llvm.get_host_cpu_name(), frozenset(k for k, on in features.items() if on)


def forms() -> list[str]:
    """The forms this processor can run, best first."""
    _, features = host()
    return [name for name, needs in FORMS.items() if any(n <= features for n in needs)]


def form() -> str:
    """The form of kernel to use: the best this processor runs, or the one `GGQ_CPU` forces."""
    possible = forms()
    wanted = os.environ.get("GGQ_CPU", "")
    if not wanted:
        return possible[0]
    if wanted not in FORMS:
        raise GGQError(f"GGQ_CPU={wanted} is not known; use one of {', '.join(FORMS)}")
    if wanted not in possible:
        missing = ", ".join(sorted(FORMS[wanted][0] - host()[1]))
        raise GGQError(f"GGQ_CPU={wanted} needs {missing}, which this processor lacks")
    return wanted
