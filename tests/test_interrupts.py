"""Ctrl-C at any moment, any number of times: the tool ends, and sessions stay as good as before."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models import TINY
from tests.tree_copy import ROOT, run_in

LLAMA = replace(TINY["llama"], config=TINY["llama"].config | {"num_hidden_layers": 4})

SESSIONS = """
import os, random, signal, sys, threading, time
import ggq

def interrupt(signum, frame):
    while frame and os.sep + "runtime" + os.sep not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame:
        raise KeyboardInterrupt

def press(delay, times):
    time.sleep(delay)
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(rng.choice([0, 0, 1e-4, 1e-3]))

rng = random.Random(7)
signal.signal(signal.SIGINT, interrupt)
model = ggq.load(sys.argv[1], n_threads=3)
tokens = [rng.randrange(64) for _ in range(700)]
session, old = model.session(800), model.session(800)
wanted = session.prefill(tokens), session.decode(5), session.score(tokens[:40])
took = time.perf_counter()
session.rewind(0)
session.prefill(tokens)
took = time.perf_counter() - took
interrupted = 0
for trial in range(80):
    session = old if trial % 2 else model.session(800)
    session.rewind(0)
    pressing = threading.Thread(target=press, args=(rng.random() * 1.5 * took, rng.randint(1, 6)))
    pressing.start()
    found = []
    try:
        found.append(session.prefill(tokens))
        found.append(session.decode(5))
        found.append(session.score(tokens[:40]))
    except KeyboardInterrupt:
        interrupted += 1
    pressing.join()
    assert session.n_past in (0, 700, 701, 741), session.n_past
    found += [session.prefill(tokens)] if session.n_past == 0 else []
    found += [session.decode(5)] if session.n_past == 700 else []
    found += [session.score(tokens[:40])] if session.n_past == 701 else []
    assert all((a == b).all() for a, b in zip(found[-3:], wanted[-len(found):]))
busy = time.process_time()
time.sleep(0.5)
busy = time.process_time() - busy
model.close()
print(interrupted, busy, [t.name for t in threading.enumerate()])
"""


def test_sessions_are_whole_after_any_interrupt(tmp_path: Path) -> None:
    path = LLAMA.write_gguf(tmp_path / "model.gguf")
    interrupted, busy, threads = run_in(ROOT, SESSIONS, str(path)).split(maxsplit=2)
    assert int(interrupted) > 20
    assert float(busy) < 0.1
    assert threads.strip() == "['MainThread']"


@pytest.mark.parametrize("seed", range(8))
def test_the_tool_ends_however_often_ctrl_c_is_pressed(seed: int, tmp_path: Path) -> None:
    path = LLAMA.write_gguf(tmp_path / "model.gguf")
    rng = random.Random(seed)
    code = "import sys; from ggq.runtime.cli import main; print(flush=True); sys.exit(main())"
    endless = [str(path), "-p", "x", "-no-cnv", "--ignore-eos", "-c", "1000000", "-t", "3"]
    # Between open() and `with` Python lets Ctrl-C through: the file is closed then, with a warning.
    strict = ["-W", "error", "-W", "ignore::ResourceWarning"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *strict, "-c", code, *endless], stdout=pipe, stderr=pipe, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        time.sleep(0.02 + rng.random())
        for _ in range(rng.randint(1, 50)):
            process.send_signal(signal.SIGINT)
            time.sleep(rng.choice([0, 0, 1e-4, 1e-3, 1e-2]))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"Exception" not in err
