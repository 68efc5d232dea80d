"""One text in a model: its KV cache, and the programs that extend it.

Token ids in, logits out; knows nothing of text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggq.blocks._frame import tile_tokens
from ggq.errors import ContextError
from ggq.jit import prepare, without_code
from ggq.reader import Tensor
from ggq.runtime.arch._base import Arch, HParams
from ggq.runtime.graph import Graph, Head, Phase
from ggq.runtime.kernels._op import N_TOKENS, POSITION, STATE_WORDS, TOKENS
from ggq.runtime.kvcache import KVCache
from ggq.runtime.rope import RopeTable
from ggq.runtime.threads import Program, Team

if TYPE_CHECKING:
    from ggq.runtime.profile import Profile
    from ggq.runtime.work import Work

Logits = npt.NDArray[np.float32]
BATCH = 512  # tokens of one prefill run
COUNTS = (2, 4, 8)  # tokens at once there are kernels for
_SCORE_BYTES = 1 << 26  # logits of one scoring run


def form_of(phase: Phase, tokens: int) -> tuple[Phase, int]:
    """The program that runs so many tokens of a phase: its phase and most tokens; 0: any."""
    if tokens == 1:
        return Phase.DECODE, 0
    if tokens <= tile_tokens():
        return Phase.FEW, next(count for count in COUNTS if count >= tokens)
    return phase, 0


class Session:
    """`n_ctx` positions, of which `n_past` hold tokens; `exact`: see Graph."""

    def __init__(
        self, arch: Arch, h: HParams, tensors: Mapping[str, Tensor], team: Team, n_ctx: int,
        *, exact: bool = False, cache_type_k: str = "f16", cache_type_v: str = "f16",
    ) -> None:  # fmt: skip
        self.n_ctx = n_ctx
        self.n_past = 0
        self._exact = exact
        self._arch, self._h, self._tensors, self._team = arch, h, tensors, team
        self._cache = KVCache(h.n_layer, h.n_head_kv, h.head_dim, n_ctx, cache_type_k, cache_type_v)
        self._ropes: dict[Hashable, RopeTable] = {}
        self._programs: dict[tuple[Phase, int], tuple[Program, Logits]] = {}
        self._heads: dict[tuple[Phase, int], Head | None] = {}
        self._last = Phase.DECODE, 0
        self._state = np.zeros(STATE_WORDS, np.int64)
        self._profile: Profile | None = None

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append tokens, all or none; f32 [V] logits of what follows. Raises ContextError."""
        ids = self._checked(tokens)
        logits = np.empty(0, np.float32)
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            logits = self._run(Phase.PREFILL, part, self.n_past + start)[-1]
        self.n_past += len(ids)
        return logits.copy()

    def decode(self, token: int) -> Logits:
        """Append one token; f32 [V] logits of what follows. Raises ContextError."""
        return self.prefill([token])

    def score(self, tokens: Sequence[int]) -> Logits:
        """Append tokens, all or none; f32 [T, V] logits behind each. Raises ContextError.

        Up to 8 tokens cost little more than one: what checking a guessed continuation needs.
        """
        ids = self._checked(tokens)
        out = np.empty((len(ids), self._h.n_vocab), np.float32)
        step = self._score_tokens()
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            out[start : start + step] = self._run(Phase.SCORE, part, self.n_past + start)
        self.n_past += len(ids)
        return out

    def score_blocks(self, tokens: Sequence[int], step: int = 0) -> Iterator[Logits]:
        """`score` in parts, each f32 [up to step, V] and gone when the next is asked for.

        Each is appended when it is asked for.
        Without `step` a part is as large as one run makes it; more than that it cannot be.
        """
        ids, most = self._checked(tokens), self._score_tokens()
        step = min(step or most, most)
        return (self._score(ids[start : start + step]) for start in range(0, len(ids), step))

    def _score(self, ids: npt.NDArray[np.int32]) -> Logits:
        logits = self._run(Phase.SCORE, ids, self.n_past)
        self.n_past += len(ids)
        return logits

    def rewind(self, n_past: int) -> None:
        """Forget all but the first `n_past` tokens."""
        if not 0 <= n_past <= self.n_past:
            raise ValueError(f"cannot go back to {n_past} tokens: there are {self.n_past}")
        self.n_past = n_past

    def work(self, tokens: int) -> list[Work]:
        """What each step of a run reads and computes that appends so many tokens, 1 to BATCH."""
        return self._work(self.program(*form_of(Phase.PREFILL, tokens))[0])

    def _work(self, program: Program) -> list[Work]:
        from ggq.runtime.work import work_of

        return work_of(program.steps, self._tensors, self._cache.position_bytes, self._exact)

    @contextmanager
    def profile(self) -> Iterator[Profile]:
        """`with session.profile() as p:` measures the runs within; `print(p)` tells all of it.

        Measuring costs some nanoseconds per operation. Raises GGQError on a processor without a
        counter that programs may read.
        """
        from ggq.runtime.profile import Profile

        found = Profile(self._team.count)
        outer, self._profile = self._profile, found
        try:
            yield found
        finally:
            self._profile = outer
            found.stop()

    def _score_tokens(self) -> int:
        fitting = _SCORE_BYTES // (4 * self._h.n_vocab)
        return max(tile_tokens(), min(BATCH, fitting // tile_tokens() * tile_tokens()))

    def _checked(self, tokens: Sequence[int]) -> npt.NDArray[np.int32]:
        ids = np.asarray(tokens)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"wanted at least one token id in a flat sequence, got {str(tokens)[:80]}"
            )
        if ids.min() < 0 or ids.max() >= self._h.n_vocab:
            wrong = ids[(ids < 0) | (ids >= self._h.n_vocab)][0]
            raise ValueError(f"token id {wrong} is outside the vocabulary of {self._h.n_vocab}")
        if self.n_past + len(ids) > self.n_ctx:
            raise ContextError(
                f"{self.n_past} + {len(ids)} tokens do not fit the context of {self.n_ctx}; "
                "shorten the text or raise the context size"
            )
        return ids.astype(np.int32)

    def program(self, phase: Phase, tokens: int = 0) -> tuple[Program, Logits]:
        """The compiled program for up to so many tokens, and where its logits come to lie.

        0 tokens: the most of the phase.
        """
        tokens = tokens or self._most(phase)
        if (phase, tokens) not in self._programs:
            graph = self._graph(phase, tokens)
            if without_code(graph.kernels()):
                self._compile()
            assert graph.logits is not None
            self._programs[phase, tokens] = (graph.program(self._team.count), graph.logits)
            self._heads[phase, tokens] = graph.head
        return self._programs[phase, tokens]

    def _most(self, phase: Phase) -> int:
        most = {Phase.DECODE: 1, Phase.PREFILL: BATCH, Phase.SCORE: self._score_tokens()}
        return most.get(phase, tile_tokens())

    def head(self) -> Head:
        """The step that made the logits of the last block of `score_blocks`, of several tokens.

        Its `states` begin with theirs, until the next run.
        """
        head = self._heads[self._last]
        if head is None:
            raise ValueError("only a run of several tokens that are scored keeps its states")
        return head

    def _graph(self, phase: Phase, tokens: int) -> Graph:
        graph = Graph(phase, self._tensors, tokens, self._cache, self._ropes, self._exact)
        self._arch.forward(graph, self._h)
        return graph

    def _compile(self) -> None:
        """Compile at once what prompts and answers need, on the first run of such a model."""
        prompt, answer = self._graph(Phase.PREFILL, BATCH), self._graph(Phase.DECODE, 1)
        prepare([*prompt.kernels(), *answer.kernels()])

    def warm_up(self) -> None:
        """Compile everything this model can need."""
        few = [self._graph(Phase.FEW, count) for count in COUNTS]
        score = self._graph(Phase.SCORE, self._score_tokens())
        self._compile()
        prepare([kernel for graph in (*few, score) for kernel in graph.kernels()])

    def _run(self, phase: Phase, ids: npt.NDArray[np.int32], position: int) -> Logits:
        """Run a phase, or its form for so few tokens; the logits of the last or of all tokens."""
        self._team.require_open()
        n = len(ids)
        phase, count = form_of(phase, n)
        program, logits = self.program(phase, count)
        self._last = phase, count or self._most(phase)
        end = position + n
        for rope in self._ropes.values():
            rope.fill(end)
        ids = np.ascontiguousarray(ids)
        self._state[[N_TOKENS, POSITION, TOKENS]] = n, position, ids.ctypes.data
        if self._profile:
            name = f"{phase.value} {count}" if count else phase.value
            measured = self._profile.of(name, lambda: self._work(program))
            self._team.run(program, self._state, measured.stamps)
            measured.add(n, end)
        else:
            self._team.run(program, self._state)
        return logits[:n]
