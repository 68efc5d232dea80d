"""An operation: a kernel every thread calls with the same description and its own number.

The compiled form is void(description, thread, threads, private, state): `description` is an array
of 64-bit words, one per parameter of the Python function; `private` is the thread's own memory;
`state` describes the tokens of this run. So an architecture is data: a list of operations with
their descriptions, and no operation is compiled twice.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.blocks._frame import tile_tokens
from ggq.jit import Kernel
from ggq.jit.atomic import atomic_load, atomic_replace
from ggq.jit.lang import (
    Value,
    bit,
    const,
    f32,
    i32,
    i64,
    load,
    loop,
    maximum,
    minimum,
    repeat_while,
    select,
    var,
    when,
)

PRIVATE = 1 << 62  # set in a word that is an offset into the thread's own memory
STATE_WORDS = 8
PIECES = 4  # of what is left of a share, a thread takes one
TAKEN_BITS = 32  # of a word that counts what was taken in a run; above them the run's number
N_TOKENS, POSITION, TOKENS = 0, 1, 2  # words of the state ...
RUN, OWN_BYTES = 3, 4  # ... and those the executor sets: run number, bytes of a thread's own memory


@dataclass(frozen=True)
class Thread:
    """One thread's view of a run, inside an operation."""

    index: Value
    count: Value
    private: Value
    state: Value

    @property
    def n_tokens(self) -> Value:
        """Tokens of this run."""
        return load(i64, self.state + 8 * N_TOKENS, 8)

    @property
    def position(self) -> Value:
        """Position of the first token of this run."""
        return load(i64, self.state + 8 * POSITION, 8)

    @property
    def tokens(self) -> Value:
        """Address of the token ids, i32 each."""
        return load(i64, self.state + 8 * TOKENS, 8)

    def at(self, word: Value) -> Value:
        """Address a buffer word stands for: shared memory or this thread's own."""
        return select((word & PRIVATE).ne(0), self.private + (word ^ PRIVATE), word)

    def share(self, total: Value, step: int | Value = 1) -> tuple[Value, Value]:
        """This thread's part of range(total), in whole steps: (begin, end)."""
        steps = (total + (step - 1)) // step
        begin = (steps * self.index) // self.count * step
        end = (steps * (self.index + 1)) // self.count * step
        return begin, minimum(end, total)

    def turns(self, total: Value, step: int, taken: Value) -> Iterator[tuple[Value, Value]]:
        """Parts (begin, end) of range(total), in whole steps, each for one thread only.

        A thread takes its share in pieces, smaller and smaller ones, then of what others have left
        of theirs: none waits for one that is slower or kept off its core. `taken` is a word of
        every thread's own memory that nothing else uses.
        """
        own_bytes = load(i64, self.state + 8 * OWN_BYTES, 8)
        for turn in loop(self.count):
            owner = (self.index + turn) % self.count
            begin, end = replace(self, index=owner).share(total, step)
            counter = self.at(taken) + (owner - self.index) * own_bytes
            yield from self._not_taken(counter, begin, end, step)

    def _not_taken(
        self, counter: Value, begin: Value, end: Value, step: int
    ) -> Iterator[tuple[Value, Value]]:
        run = load(i64, self.state + 8 * RUN, 8) << TAKEN_BITS
        steps = (end - begin + (step - 1)) // step
        going = var(const(bit, 1))
        for _ in repeat_while(lambda: going.value):
            before = atomic_load(counter)
            # What another run left there counts as nothing taken.
            now = select((before >> TAKEN_BITS).eq(run >> TAKEN_BITS), before, run)
            done = now & ((1 << TAKEN_BITS) - 1)
            going.set(done < steps)
            with when(done < steps):
                more = maximum((steps - done) // PIECES, const(i64, 1))
                first = begin + done * step
                with when(atomic_replace(counter, before, now + more).eq(before)):
                    yield first, minimum(first + more * step, end)

    def share_tokens(self) -> tuple[Value, Value]:
        """This thread's tokens, in whole tiles; singly where there is one tile of them at most."""
        tokens, width = self.n_tokens, tile_tokens()
        return self.share(tokens, select(tokens > width, const(i64, width), const(i64, 1)))


class Op:
    """An operation and the names of its description's words."""

    def __init__(self, name: str, body: Callable[..., None]) -> None:
        parameters = list(inspect.signature(body).parameters.values())[1:]
        self.words = {p.name: p.annotation == "Single" for p in parameters}

        def kernel(
            description: Value, index: Value, count: Value, private: Value, state: Value
        ) -> None:
            words = []
            for k, is_single in enumerate(self.words.values()):
                word = load(i64, description + 8 * k, 8)
                words.append(word.to(i32).bits(f32) if is_single else word)
            body(Thread(index, count, private, state), *words)

        self.kernel = Kernel(name, kernel, 5)

    def describe(self, **values: int | float) -> list[int]:
        """Words of a description; every parameter must be given."""
        if values.keys() != self.words.keys():
            raise TypeError(f"{self.kernel.name} takes {list(self.words)}, got {list(values)}")
        return [
            struct.unpack("<i", struct.pack("<f", values[name]))[0] if single else int(values[name])
            for name, single in self.words.items()
        ]


@dataclass(frozen=True)
class Step:
    """One step of a program: an operation with its description; a barrier has neither."""

    op: Op | None = None
    description: npt.NDArray[np.int64] | None = None

    @property
    def words(self) -> dict[str, int]:
        """The description by name."""
        if self.op is None or self.description is None:
            return {}
        return dict(zip(self.op.words, self.description.tolist(), strict=True))


Single = Any  # annotation of a parameter that is a single-precision number


def op(body: Callable[..., None]) -> Op:
    """Decorator: the first parameter is the Thread, the others words of the description."""
    module = body.__module__.rpartition(".")[2].strip("_")
    return Op(f"{module}.{body.__name__}", body)
