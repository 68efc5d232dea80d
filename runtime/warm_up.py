"""Compiling every kernel ahead: `ggq-run --warm-up`.

Run as a program it compiles every `count`-th of all kernels, from a number on: two such processes
use two cores, which threads of one process cannot.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from ggq.errors import GGQError
from ggq.jit import Kernel, prepare, without_code
from ggq.runtime.progress import CompileProgress

if TYPE_CHECKING:
    from ggq.blocks import BlockType
    from ggq.runtime.kernels._op import Op

_GROUPS = range(1, 17)  # query heads that share a head of the cache


def compile_everything(prog: str) -> int:
    """Compile every kernel that is not kept yet, on all cores; how many that were."""
    from ggq.runtime.cores import usable_cores

    total = len(without_code(list(all_kernels())))
    if not total:
        return 0
    show = CompileProgress(prog)
    show(0, total)
    count = usable_cores()
    command = [sys.executable, "-m", "ggq.runtime.warm_up"]
    # One pipe for all: what comes first is counted first.
    reading, writing = os.pipe()
    workers = [
        subprocess.Popen([*command, str(i), str(count)], stdout=writing) for i in range(count)
    ]
    os.close(writing)
    try:
        with open(reading) as lines:
            for done, _ in enumerate(lines, 1):
                show(min(done, total), total)
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        codes = [worker.wait() for worker in workers]
    if any(codes):
        raise GGQError("some kernels could not be compiled; the lines above say why")
    return total


def all_kernels() -> Iterator[Kernel]:
    """What any architecture can need for weights of any type and a cache of half precision.

    Exact ones and other types of cache are left to the models that are run so.
    """
    from ggq.blocks import all_types
    from ggq.blocks._dequantize import dequantize_kernel
    from ggq.blocks._quantize import quantize_kernel
    from ggq.runtime.kernels import execute
    from ggq.runtime.model import WITHOUT_WEIGHTS

    yield from (execute.run, execute.dismiss, execute.work)
    seen: set[str] = set()
    for op in _ops():
        if op.kernel.symbol not in seen:
            seen.add(op.kernel.symbol)
            yield op.kernel
    for family in all_types():
        if family.name in WITHOUT_WEIGHTS:
            continue
        yield dequantize_kernel(family)
        if family.can_quantize:
            yield quantize_kernel(family, False)


def _ops() -> Iterator[Op]:
    from ggq.blocks import all_types
    from ggq.runtime.kernels import activation, linear, moe, norm
    from ggq.runtime.model import WITHOUT_WEIGHTS

    yield from (norm.rms_norm, norm.rms_norm_last, norm.add_rms_norm)
    yield from (op for pair in activation.GATED.values() for op in pair)
    yield from (activation.softcap, linear.add_bias(), moe.route, moe.plan)
    yield from _attention_ops()
    for family in all_types():
        if family.name not in WITHOUT_WEIGHTS:
            yield from _ops_of(family)


def _attention_ops() -> Iterator[Op]:
    from ggq.runtime.kernels import attention, attention_tiles, heads
    from ggq.runtime.kernels.cache_types import TYPES
    from ggq.runtime.kernels.panels import panel_for

    types = TYPES["f16"], TYPES["f16"]
    together = sorted({attention.at_once(group) for group in _GROUPS})
    for neox, has_cap in product((False, True), repeat=2):
        yield heads.heads(neox, *types)
        for rounded in (False, True):
            yield attention_tiles.attend_tiles(*types, has_cap, panel_for(rounded))
        for count in together:
            yield attention.attend(neox, *types, count, has_cap)
    for one_token in (False, True):
        yield attention.combine(types[1].rotated, one_token)


def _ops_of(family: BlockType) -> Iterator[Op]:
    from ggq.runtime.kernels import linear, moe
    from ggq.runtime.session import COUNTS

    frame = linear.frame_of(family, False)
    yield linear.embed(family)
    yield linear.matmat(family, False)
    for count in (1, *COUNTS):
        yield linear.matvec(family, False, count)
    for lay_out in (linear.image, linear.images, linear.tile, moe.images, moe.gather):
        yield lay_out(frame.key, frame)
    yield moe.gated_rows(family, family, False)
    yield moe.add_rows(family, False)
    yield moe.gated_panels(family, family, False)
    yield moe.add_panels(family, False)


def main() -> None:
    """Compile the kernels whose turn it is, a line for each."""
    first, count = map(int, sys.argv[1:])
    for each in without_code(list(all_kernels())[first::count]):
        prepare([each])
        print(each.name, flush=True)


if __name__ == "__main__":
    main()
