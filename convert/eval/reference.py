"""What files are held against: a GGUF file, a model directory, or a base file of either kind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ggq.convert.eval.chunks import Chunks
from ggq.convert.eval.llama_base import LlamaBase, is_llama_base
from ggq.convert.eval.sources import LogitSource, ModelLogits, opened
from ggq.convert.eval.state_base import StateBase, is_state_base
from ggq.convert.sources.open import open_source
from ggq.convert.ways.reference_file import reference_file
from ggq.errors import UsageError
from ggq.runtime.hub import find_model


@contextmanager
def open_reference(
    name: str, candidates: list[ModelLogits], *, exact: bool, threads: int
) -> Iterator[tuple[LogitSource, list[Chunks]]]:
    """The reference called `name`, and the texts it is bound to: none for a model.

    A model directory becomes a GGUF file of its own precision in the folder for temporary files,
    for as long as it is needed. Raises NotFoundError, UsageError, FormatError, and what opening a
    model raises.
    """
    path = find_model(name)
    if path.is_dir():
        with tempfile.TemporaryDirectory(prefix="ggq-eval-") as folder:
            made = reference_file(open_source(str(path)), Path(folder), threads)
            with opened(made, exact=exact, threads=threads) as source:
                yield source, []
    elif is_llama_base(path):
        if not candidates:
            raise UsageError(f"{name}: a base file is there to measure files; name one or more")
        words = candidates[0].model.tokenizer
        base = LlamaBase(path, words.bos if words.add_bos else None)
        yield base, base.texts
    elif is_state_base(path):
        with closing(StateBase(path, threads)) as states:
            if states.exact != exact:
                made_with = "with" if states.exact else "without"
                raise UsageError(f"{name}: made {made_with} --exact; measure the same way")
            yield states, states.texts
    else:
        with opened(path, exact=exact, threads=threads) as source:
            yield source, []
