"""From the tokens of a text to the sequences calibration reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ggq.errors import UsageError


def chunks(
    ids: Sequence[int], context: int, bos: int | None, count: int = 0
) -> npt.NDArray[np.int32]:
    """i32 [sequences, context]: whole chunks of a text; with `count`, so many, spread evenly.

    `bos`, for a model that wants its texts to begin with it, replaces the first token of each
    chunk, as llama-imatrix and llama-perplexity do. Raises UsageError for a text that is too short
    for one chunk.
    """
    there = len(ids) // context
    if not there:
        raise UsageError(
            f"the calibration text has {len(ids)} tokens, but one sequence needs {context};"
            " give more text"
        )
    whole = np.array(ids[: there * context], np.int32).reshape(there, context)
    if count and count < there:
        whole = whole[np.arange(count) * there // count]
    if bos is not None:
        whole[:, 0] = bos
    return whole
