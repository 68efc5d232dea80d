"""The compiled loop of a run: operations, and barriers between them.

One control block, 128 bytes apart so that threads do not share cache lines by accident:
run number, arrivals at the barrier, barrier number, then the program of the run, then a word per
worker telling whether it spins or is parked, with the lock it parks on.

A run that is measured gives an address for time stamps, i64 [threads, operations + 2]: every thread
notes its cycle counter when it begins, behind every operation or barrier, and behind the last
barrier.
"""

from __future__ import annotations

from ggq.jit import kernel
from ggq.jit.atomic import (
    atomic_add,
    atomic_exchange,
    atomic_load,
    atomic_replace,
    atomic_store,
    pause,
    sleep_while,
    wake_all,
)
from ggq.jit.lang import (
    Value,
    bit,
    call,
    call_address,
    const,
    i64,
    load,
    loop,
    repeat_while,
    store,
    var,
    when,
)
from ggq.runtime.kernels import _op

LINE = 128
RUN, ARRIVALS, BARRIER, PROGRAM = 0, LINE, 2 * LINE, 3 * LINE
SLEEPERS = ARRIVALS + LINE // 2
RUN_BITS = 16  # below the number of a run, for how many threads take part in it
# The program: addresses, counts, and where the threads' own memories start and how long each is.
OPERATIONS, N_OPERATIONS, STATE, OWN, OWN_BYTES, STAMPS, QUIT = (PROGRAM + 8 * k for k in range(7))
# Python's functions for its own locks: they need no interpreter, and every system has them.
ACQUIRE, RELEASE = (PROGRAM + 8 * k for k in (7, 8))
WORKERS = 4 * LINE
LOCK = 8  # behind the worker's word
SPINNING, PARKED = 0, 1
PATIENCE = 500  # looks at a barrier, some tens of cycles each


def control_bytes(threads: int) -> int:
    """Bytes of a control block."""
    return WORKERS + LINE * threads


def _barrier(control: Value, threads: Value) -> None:
    """Wait until all threads are here.

    Spinning is quickest while every thread has a core. After PATIENCE looks the thread sleeps, for
    the one waited for may need the core, on a machine that has other work too. A thread that slept
    is let in at once when it is woken; one that spun or yielded waits behind the others.
    """
    number = atomic_load(control + BARRIER)
    arrived = atomic_add(control + ARRIVALS, const(i64, 1))
    is_last = arrived.eq(threads - 1)
    with when(is_last):
        atomic_store(control + ARRIVALS, const(i64, 0))
        # In one order for all threads: either a sleeper sees the new number, or it is seen here.
        atomic_exchange(control + BARRIER, number + 1)
        with when(atomic_load(control + SLEEPERS).ne(0)):
            wake_all(control + BARRIER)
    left = var(const(i64, PATIENCE))
    for _ in repeat_while(lambda: atomic_load(control + BARRIER).eq(number)):
        pause()
        left -= 1
        with when(left < 0):
            atomic_add(control + SLEEPERS, const(i64, 1))
            sleep_while(control + BARRIER, number)
            atomic_add(control + SLEEPERS, const(i64, -1))


def _run(control: Value, thread: Value, threads: Value) -> None:
    """All operations of the current program; one whose address is 0 is a barrier."""
    private = load(i64, control + OWN, 8) + thread * load(i64, control + OWN_BYTES, 8)
    operations = load(i64, control + OPERATIONS, 8)
    state = load(i64, control + STATE, 8)
    count = load(i64, control + N_OPERATIONS, 8)
    stamps = load(i64, control + STAMPS, 8)
    is_measured = stamps.ne(0)
    stamps += thread * (count + 2) * 8

    def stamp(index: Value) -> None:
        with when(is_measured):
            store(stamps + index * 8, _cycles(), 8)

    stamp(const(i64, 0))
    for i in loop(count):
        function = load(i64, operations + i * 16, 8)
        with when(function.eq(0)):
            _barrier(control, threads)
        with when(function.ne(0)):
            description = load(i64, operations + i * 16 + 8, 8)
            call_address(function, description, thread, threads, private, state)
        stamp(i + 1)
    _barrier(control, threads)
    stamp(count + 1)
    with when(is_measured):
        _barrier(control, threads)  # thread 0 returns when all have noted their end


def _cycles() -> Value:
    """A counter of even pace, i64: the processor's clock or its timer, whichever LLVM reads."""
    return call("llvm.readcyclecounter", i64)


@kernel
def read_cycles(out):  # type: ignore[no-untyped-def]
    """The counter of the time stamps, i64."""
    store(out, _cycles(), 8)


def _begin(control: Value, threads: Value) -> None:
    """Start a run of what the control block holds, and wake those of its workers that are parked.

    The other workers pass the run over.
    """
    number = (atomic_load(control + RUN) >> RUN_BITS) + 1
    atomic_exchange(control + RUN, (number << RUN_BITS) | threads)
    for i in loop(1, threads):
        worker = control + WORKERS + i * LINE
        was = atomic_exchange(worker, const(i64, SPINNING))
        with when(was.eq(PARKED)):
            call_address(load(i64, control + RELEASE, 8), load(i64, worker + LOCK, 8))


@kernel
def run(control, threads, operations, n_operations, state, own, own_bytes, stamps):  # type: ignore[no-untyped-def]
    """Run a program as thread 0 of `threads`; returns when all of them are done.

    In one call, because Python may leave its code for a handler of signals between any two.
    """
    store(control + OPERATIONS, operations, 8)
    store(control + N_OPERATIONS, n_operations, 8)
    store(control + STATE, state, 8)
    store(control + OWN, own, 8)
    store(control + OWN_BYTES, own_bytes, 8)
    store(control + STAMPS, stamps, 8)
    store(state + 8 * _op.RUN, (atomic_load(control + RUN) >> RUN_BITS) + 1, 8)
    store(state + 8 * _op.OWN_BYTES, own_bytes, 8)
    _begin(control, threads)
    _run(control, const(i64, 0), threads)


@kernel
def dismiss(control, threads):  # type: ignore[no-untyped-def]
    """Let all workers return from `work`."""
    store(control + QUIT, const(i64, 1), 8)
    _begin(control, threads)


@kernel
def work(control, thread, spins):  # type: ignore[no-untyped-def]
    """A worker: take part in runs until dismissed; park once `spins` looks have found nothing new.

    Its lock is held while it is not about to be woken.
    """
    worker = control + WORKERS + thread * LINE
    lock = load(i64, worker + LOCK, 8)
    seen = var(const(i64, 0))
    going = var(const(bit, 1))
    left = var(spins.value)
    for _ in repeat_while(lambda: going.value):
        # One word for the run and its threads: who takes no part must not look at the program,
        # which may be the next one's by then.
        run = atomic_load(control + RUN)
        threads = run & ((1 << RUN_BITS) - 1)
        is_new = run.ne(seen)
        with when(is_new):
            seen.set(run)
            with when(thread < threads):
                is_over = load(i64, control + QUIT, 8).ne(0)
                with when(is_over):
                    going.set(const(bit, 0))
                with when(~is_over):
                    _run(control, thread, threads)
                left.set(spins)
        with when(~is_new):
            left -= 1
            pause()
            with when(left < 0):
                atomic_exchange(worker, const(i64, PARKED))
                # A run begun just before the word changed would not wake this worker.
                is_late = var(atomic_load(control + RUN).ne(run))
                with when(is_late.value):
                    was = atomic_replace(worker, const(i64, PARKED), const(i64, SPINNING))
                    is_late.set(was.eq(PARKED))
                with when(~is_late.value):
                    wait = const(i64, 1)
                    call_address(load(i64, control + ACQUIRE, 8), lock, wait)
                left.set(spins)
