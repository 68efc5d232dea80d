"""What a transform is: something that finds a fold for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ggq.blocks import BlockType
from ggq.convert.tensor_source import Source
from ggq.convert.transforms._channels import Channels
from ggq.convert.transforms._fold import Fold

if TYPE_CHECKING:
    from ggq.convert.calibrate.calibration import Calibration

Types = Mapping[str, BlockType]


class Transform:
    """A function-preserving change of the weights before they are quantized.

    A subclass in a file of this folder registers itself by being there.
    """

    name: ClassVar[str]
    needs_calibration: ClassVar[bool] = True

    def search(self, calibration: Calibration | Any, source: Source, types: Types) -> Fold:
        """The fold that suits a source whose tensors will be of `types`, by tensor name.

        Raises UnsupportedModelError, ConvertError.
        """
        raise NotImplementedError


def source_channels(source: Source) -> Channels:
    """The channels of a source. Raises UnsupportedModelError, FormatError."""
    from ggq.convert.transforms._forward import channels_of

    shapes = {tensor.info.name: tensor.info.shape for tensor in source.tensors}
    return channels_of(source.metadata, shapes)
