"""A folder of statistics: what is in it, and reading them matrix by matrix."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.convert.calibrate.moments import key_of, read_moments, read_outputs
from ggq.convert.calibrate.statistics import F32, TensorStatistics
from ggq.convert.calibrate.work_files import replacing
from ggq.errors import CalibrationError

FORMAT = 2
INDEX = "calibration.json"


@dataclass(frozen=True)
class Matrix:
    """One matrix, or a stack of `experts`. `site`: the first of those that share its input."""

    site: str
    section: int
    rows: int
    columns: int
    experts: int = 0


@dataclass(frozen=True)
class Index:
    """What a folder holds. `identity` tells model, text and options from all others."""

    identity: str
    sequences: int
    context: int
    gradients: bool
    sections: Sequence[str]
    matrices: dict[str, Matrix]

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        text = json.dumps({"format": FORMAT} | asdict(self), indent=1)
        with replacing(folder / INDEX) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, folder: Path) -> Index | None:
        """The folder's, None where there is none this version reads."""
        try:
            fields = json.loads((folder / INDEX).read_bytes())
            if fields.pop("format") != FORMAT:
                return None
            matrices = {name: Matrix(**matrix) for name, matrix in fields.pop("matrices").items()}
            return cls(**fields, matrices=matrices)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def inputs_file(folder: Path, section: int) -> Path:
    """Moments of the inputs of a section's sites."""
    return folder / f"inputs-{section:03d}.npz"


def outputs_file(folder: Path, section: int) -> Path:
    """What gradients told about a section's matrices."""
    return folder / f"outputs-{section:03d}.npz"


def embedding_file(folder: Path) -> Path:
    """Sampled tokens and the gradients of their rows of the embedding table."""
    return folder / "embedding.npz"


class Calibration:
    """The statistics in a folder that `collect` filled. Raises CalibrationError for any other."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index = Index.read(self.folder)
        if index is None:
            raise CalibrationError(
                f"{folder}: this is no calibration folder: there is no {INDEX} of format {FORMAT}"
            )
        self.index = index
        for section in {matrix.section for matrix in index.matrices.values()}:
            files = [inputs_file(self.folder, section)]
            if index.gradients:
                files += [outputs_file(self.folder, section), embedding_file(self.folder)]
            for file in files:
                if not file.is_file():
                    raise CalibrationError(
                        f"{folder}: the calibration is not complete: {file.name} is missing;"
                        " run it again to continue"
                    )

    @property
    def hash(self) -> str:
        """Tells this model, text and options from all others."""
        return self.index.identity

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return self.index.sequences * self.index.context

    @property
    def gradients(self) -> bool:
        """Whether gradients were taken."""
        return self.index.gradients

    @property
    def names(self) -> list[str]:
        """Every matrix there are statistics of; a tied output matrix is token_embd.weight."""
        return list(self.index.matrices)

    def site(self, name: str) -> str:
        """The first of the matrices that share the input of `name`."""
        return self._matrix(name).site

    def experts(self, name: str) -> int:
        """How many matrices a stack has; 0: it is no stack."""
        return self._matrix(name).experts

    def squares(self, name: str) -> tuple[F32, npt.NDArray[np.int64]]:
        """f32 [matrices, C] mean squares of the inputs, and how many tokens each has had."""
        matrix = self._matrix(name)
        means = np.zeros((max(1, matrix.experts), matrix.columns), np.float32)
        counts = np.zeros(len(means), np.int64)
        with np.load(inputs_file(self.folder, matrix.section)) as file:
            for row in range(len(means)):
                key = f"{key_of(matrix.site, row if matrix.experts else None)}/gram"
                if key in file:
                    means[row], counts[row] = file[f"{key}.square"], file[f"{key}.count"][0]
        return means, counts

    def of(
        self, name: str, expert: int | None = None, *, guided: bool = True, samples: bool = True
    ) -> TensorStatistics:
        """Statistics of a matrix; of a stack, of one `expert`.

        Without `guided` or `samples` those arrays are not read. An expert's moments are drawn
        towards the mean of all experts of the layer, as if it had had C/4 more tokens of their
        mixture. Raises CalibrationError for a matrix that is not there.
        """
        matrix = self._matrix(name)
        if (expert is None) == (matrix.experts > 0):
            wanted = f"one of {matrix.experts} experts" if matrix.experts else "no expert"
            raise CalibrationError(f"{name}: wanted is {wanted}, not {expert}")
        with np.load(inputs_file(self.folder, matrix.section)) as file:
            moments = read_moments(file, matrix.site, expert, "gram")
        fields: dict[str, Any] = {"gram": moments.gram, "first_rows": moments.first_rows}
        if self.gradients and (guided or samples):
            with np.load(outputs_file(self.folder, matrix.section)) as file:
                if guided:
                    weighted = read_moments(file, name, expert, "guided")
                    fields["guided"] = weighted.gram
                    fields["guided_first_rows"] = weighted.first_rows
                    fields["outputs"] = read_outputs(file, name, expert)
                inputs = f"{key_of(matrix.site, expert)}/inputs"
                if samples and inputs in file:
                    fields["inputs"] = file[inputs]
                    fields["gradients"] = file[f"{key_of(name, expert)}/gradients"]
            with np.load(embedding_file(self.folder)) as file:
                if samples and f"{name}/ids" in file:
                    fields["embedded"] = file[f"{name}/ids"]
                    fields["embedded_gradients"] = file[f"{name}/gradients"]
        return TensorStatistics(
            columns=matrix.columns, count=moments.count, square=moments.square,
            mean=moments.mean, **fields,
        )  # fmt: skip

    def _matrix(self, name: str) -> Matrix:
        try:
            return self.index.matrices[name]
        except KeyError:
            raise CalibrationError(f"{self.folder}: no statistics of a matrix {name}") from None
