"""The output matrix alone: logits of states that a model left behind earlier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ggq.reader import Tensor
from ggq.runtime.graph import Graph, Phase
from ggq.runtime.kernels._op import N_TOKENS, STATE_WORDS
from ggq.runtime.kvcache import KVCache
from ggq.runtime.threads import Team

F32 = npt.NDArray[np.float32]


class OutputMatrix:
    """`tensors` hold the matrix [V, D] `name`.weight in any type; up to `most` states at a time.

    With `softcap` c a logit is c tanh(logit / c); `exact`: see Graph.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], name: str, team: Team, most: int,
        *, softcap: float = 0.0, exact: bool = False,
    ) -> None:  # fmt: skip
        graph = Graph(Phase.SCORE, tensors, most, KVCache(0, 1, 64, 1), {}, exact)
        x = graph.states(tensors[f"{name}.weight"].shape[1])
        graph.output(x, name, softcap)
        assert graph.logits is not None
        assert graph.head is not None
        self._team, self._program = team, graph.program(team.count)
        self._states, self._logits = graph.head.states, graph.logits

    def __call__(self, states: F32) -> F32:
        """f32 [T, D] -> logits f32 [T, V], gone with the next call."""
        n = len(states)
        self._states[:n] = states
        state = np.zeros(STATE_WORDS, np.int64)
        state[N_TOKENS] = n
        self._team.run(self._program, state)
        return self._logits[:n]
