"""A model with one layer of experts runs while all that no token chose is locked: ... MODEL.gguf

    python -m tests.guarded_experts model.gguf

An expert is chosen if making its weights no numbers shows in the logits of any token. Then the
pages of all others are locked, and the same logits must come again. Prints how many each text
chose.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

import ggq
from ggq.reader import Tensor
from ggq.runtime.session import Session

Logits = npt.NDArray[np.float32]
PAGE = mmap.PAGESIZE
# One token; few of them; many, among which some experts have many and some few.
TEXTS = {"one": [7], "few": [7, 9, 30], "many": [7] * 9 + [9] * 2 + [30, 41]}


def part(stack: Tensor, expert: int) -> tuple[int, int]:
    """(address, bytes) of one matrix of a stack."""
    nbytes = stack.nbytes // stack.shape[0]
    return stack.address + expert * nbytes, nbytes


def is_chosen(expert: int, stacks: list[Tensor], run: Callable[[], Logits]) -> bool:
    """Whether the logits depend on an expert; all of its matrices must then show."""
    shows = []
    for stack in stacks:
        address, nbytes = part(stack, expert)
        kept = ctypes.string_at(address, nbytes)
        ctypes.memset(address, 0xFF, nbytes)
        shows.append(not np.isfinite(run()).all())
        ctypes.memmove(address, kept, nbytes)
    assert len(set(shows)) == 1, f"expert {expert} is read in part: {shows}"
    return shows[0]


@contextmanager
def locked(stacks: list[Tensor], experts: list[int]) -> Iterator[None]:
    """The whole pages of these experts cannot be read."""
    ranges = []
    for stack in stacks:
        for expert in experts:
            address, nbytes = part(stack, expert)
            first, end = -(-address // PAGE) * PAGE, (address + nbytes) // PAGE * PAGE
            assert end - first >= nbytes - 2 * PAGE > 0
            ranges.append((first, end - first))
    for address, nbytes in ranges:
        _protect(address, nbytes, 0)
    yield
    for address, nbytes in ranges:
        _protect(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE)


def _protect(address: int, nbytes: int, how: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).mprotect
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if call(address, nbytes, how):
        raise OSError(ctypes.get_errno(), "mprotect")


def main(path: str) -> None:
    """Every text, scored and prefilled."""
    with ggq.load(path, n_threads=2, mapped=False) as model:
        names = [f"blk.0.ffn_{name}_exps.weight" for name in ("gate", "up", "down")]
        stacks = [model.tensors[name] for name in names]
        session = model.session(32)
        for name, tokens in TEXTS.items():
            score = fresh(session, Session.score, tokens)
            prefill = fresh(session, Session.prefill, tokens)
            honest = score(), prefill()
            assert all(np.isfinite(logits).all() for logits in honest)
            every = range(stacks[0].shape[0])
            chosen = {e for e in every if is_chosen(e, stacks, score)}
            with locked(stacks, [e for e in every if e not in chosen]):
                assert np.array_equal(score(), honest[0])
                assert np.array_equal(prefill(), honest[1])
            print(name, len(chosen), flush=True)


def fresh(
    session: Session, method: Callable[[Session, list[int]], Logits], tokens: list[int]
) -> Callable[[], Logits]:
    """To run a text from an empty cache."""

    def run() -> Logits:
        session.rewind(0)
        return method(session, tokens)

    return run


if __name__ == "__main__":
    main(sys.argv[1])
