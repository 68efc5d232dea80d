"""Sequences of text for calibration, and others that are kept to judge its result by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.corpus import Document, documents, read_files, sample
from ggq.errors import UsageError
from ggq.metadata import Metadata

I32 = npt.NDArray[np.int32]

CONTEXT = 512  # tokens a sequence
SAME_PASSAGE = 24  # tokens in a row that two sequences share only if they overlap
LEAST_HELD_OUT = 2
BUILTIN, SELF = "builtin", "self"


class Texts(NamedTuple):
    """`calibration` and `held_out` i32[n, CONTEXT], which share no passage."""

    calibration: I32
    held_out: I32

    @property
    def hash(self) -> str:
        """SHA-256 of the calibration tokens, the first 16 digits."""
        return hashlib.sha256(np.ascontiguousarray(self.calibration).tobytes()).hexdigest()[:16]


def choose_texts(
    metadata: Metadata,
    calib: Sequence[str],
    tokens: int,
    held_out_tokens: int,
    seed: int,
    write: Callable[[int], I32],
) -> Texts:
    """Sequences of what `calib` names: files, "builtin", the text that comes with ggq, or "self".

    `write(n)` gives i32[n, CONTEXT] the model has written itself; beside other text that is half.
    Raises UsageError where no held-out sequences are left, CalibrationTextError, NotFoundError.
    """
    wanted, held_out = -(-tokens // CONTEXT), -(-held_out_tokens // CONTEXT)
    others = [name for name in calib if name != SELF]
    parts = []
    if SELF in calib:
        parts.append(write((wanted + held_out) // (2 if others else 1)))
    missing = wanted + held_out - sum(map(len, parts))
    if others:
        parts.append(_sampled(metadata, others, missing, seed))
    found = np.concatenate(parts)
    # Whatever number is taken first has something of every part.
    order = np.argsort(np.concatenate([np.linspace(0, 1, len(part)) for part in parts]))
    found = found[order] if len(parts) > 1 else found
    calibration, rest = found[:wanted], found[wanted:]
    passages = {passage for row in calibration for passage in _passages(row)}
    judges = [row for row in rest if passages.isdisjoint(_passages(row))]
    if held_out and len(judges) < LEAST_HELD_OUT:
        raise UsageError(
            f"the calibration text is too short: of {len(found)} sequences of {CONTEXT} tokens,"
            f" {len(judges)} share nothing with the {wanted} for calibration; give more text with"
            " --calib, or less with --calib-tokens"
        )
    return Texts(calibration, np.array(judges, np.int32).reshape(-1, CONTEXT))


def _sampled(metadata: Metadata, calib: Sequence[str], sequences: int, seed: int) -> I32:
    from ggq.runtime.chat import Chat
    from ggq.runtime.tokenizer import from_metadata

    tokenizer = from_metadata(metadata)
    chat = Chat(metadata, tokenizer)
    texts = _documents(calib)
    return sample(tokenizer, sequences * CONTEXT, CONTEXT, seed, texts=texts, chat=chat)


def _documents(calib: Sequence[str]) -> list[Document]:
    texts: list[Document] = []
    if BUILTIN in calib:
        texts += documents()
    if files := [name for name in calib if name != BUILTIN]:
        texts += read_files(files)
    return texts


def _passages(row: I32) -> set[bytes]:
    whole = np.lib.stride_tricks.sliding_window_view(row, SAME_PASSAGE)
    return {window.tobytes() for window in whole}
