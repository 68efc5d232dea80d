"""No kernel touches a byte outside its buffers, in any form, for any type and tail length.

The same runs check the products, so every form obeys the laws of tests/block_laws.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ggq.jit import cpu

ROOT = Path(__file__).parents[1]


def run(form: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GGQ_CPU": form}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_no_kernel_leaves_its_buffers() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(zip(cpu.forms(), pool.map(_run_all, cpu.forms()), strict=True))
    failed = [
        f"{form}: {signal_name(each)} at {(each.stdout.splitlines() or ['start'])[-1]}"
        f"\n{each.stderr[-2000:]}"
        for form, each in done.items()
        if each.returncode or not each.stdout.endswith("done\n")
    ]
    assert not failed, "\n".join(failed)


def _run_all(form: str) -> subprocess.CompletedProcess[str]:
    return run(form, "-m", "tests.guarded_run")


def signal_name(done: subprocess.CompletedProcess[str]) -> str:
    code = done.returncode
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@pytest.mark.parametrize(("at_end", "offset"), [(True, 1), (False, -1)])
@pytest.mark.parametrize("reads", [True, False])
def test_the_guard_pages_do_guard(at_end: bool, offset: int, reads: bool) -> None:
    program = f"""
from ggq.jit import Kernel
from ggq.jit.lang import load, store, u8

def move(source, target):
    store(target, load(u8, source))

from tests.guarded_run import Guarded
place = Guarded({at_end})
guarded, other = (place(name, 1).ctypes.data for name in ("x", "y"))
move = Kernel("test.move", move, 2)
move(*((guarded, other) if {reads} else (other, guarded)))
print("inside", flush=True)
guarded += {offset}
move(*((guarded, other) if {reads} else (other, guarded)))
"""
    done = run(cpu.forms()[0], "-c", program)
    assert done.stdout == "inside\n", done.stderr
    assert done.returncode == -signal.SIGSEGV
