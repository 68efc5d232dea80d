"""What a transform is: something that finds a fold for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ggq.blocks import BlockType
from ggq.convert.sources.tensor_source import Source
from ggq.convert.transforms._channels import Channels
from ggq.convert.transforms._fold import Fold
from ggq.errors import ConvertError

if TYPE_CHECKING:
    from ggq.convert.calibrate.statistics import TensorStatistics

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Types = Mapping[str, BlockType]


class Calibrated(Protocol):
    """Where the statistics of matrices are: a calibration, or one seen through a fold."""

    @property
    def names(self) -> Sequence[str]:
        """The matrices there are statistics of."""
        ...

    @property
    def gradients(self) -> bool:
        """Whether gradients were taken, and inputs of sampled tokens kept with them."""
        ...

    def squares(self, name: str) -> tuple[F32, I64]:
        """f32 [matrices, C] mean squares of the inputs, and how many tokens each has had."""
        ...

    def of(
        self, name: str, expert: int | None = None, *, guided: bool = True, samples: bool = True
    ) -> TensorStatistics:
        """Statistics of a matrix; of a stack, of one expert's."""
        ...


class Transform:
    """A function-preserving change of the weights before they are quantized.

    A subclass in a file of this folder registers itself by being there.
    """

    name: ClassVar[str]
    needs_calibration: ClassVar[bool] = True

    def search(
        self,
        calibration: Calibrated | None,
        source: Source,
        types: Types,
    ) -> Fold:
        """The fold that suits a source whose tensors will be of `types`, by tensor name.

        Raises ConvertError without the calibration it needs, UnsupportedModelError, FormatError.
        """
        raise NotImplementedError

    def required(self, calibration: Calibrated | None) -> Calibrated:
        """The calibration, which must be there. Raises ConvertError."""
        if calibration is None:
            raise ConvertError(
                f"transform {self.name} needs calibration data; give --calib, or take permute"
            )
        return calibration


def source_channels(source: Source) -> Channels:
    """The channels of a source. Raises UnsupportedModelError, FormatError."""
    from ggq.convert.transforms._forward import channels_of

    shapes = {tensor.info.name: tensor.info.shape for tensor in source.tensors}
    return channels_of(source.metadata, shapes)
