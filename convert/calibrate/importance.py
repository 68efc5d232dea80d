"""The importance matrix of a calibration: what llama-imatrix would have written for the text."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.calibration import Calibration
from ggq.convert.imatrix import Imatrix, write_imatrix

F32 = npt.NDArray[np.float32]


def importance(
    calibration: Calibration, *, process_output: bool = False
) -> dict[str, tuple[F32, F32]]:
    """Matrix -> sums of squares f32 [matrices, columns] and tokens f32 [matrices].

    The output matrix is there only with `process_output`, and never where it is tied.
    """
    found = {}
    for name in calibration.names:
        if name.startswith("blk.") or (process_output and name == "output.weight"):
            means, counts = calibration.squares(name)
            tokens = counts.astype(np.float32)
            found[name] = means * tokens[:, None], tokens
    return found


def as_imatrix(calibration: Calibration) -> Imatrix:
    """Mean squares of the inputs of every matrix; ones for experts no token came to."""
    values = {}
    for name in calibration.names:
        squares, counts = calibration.squares(name)
        values[name] = np.where(counts[:, None] > 0, squares, np.float32(1))
    return Imatrix("the calibration", values, [], 0)


def save_imatrix(
    calibration: Calibration, path: str | os.PathLike[str], *, datasets: Sequence[str] = (),
    process_output: bool = False,
) -> None:  # fmt: skip
    """Write it: llama.cpp's GGUF format, or the legacy one where `path` ends in .dat.

    `datasets` are names of the texts. Raises NotFoundError, UsageError, OSError.
    """
    entries = importance(calibration, process_output=process_output)
    write_imatrix(
        path, entries, datasets=datasets, chunk_count=calibration.index.sequences,
        chunk_size=calibration.index.context,
    )  # fmt: skip
