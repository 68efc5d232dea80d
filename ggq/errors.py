"""Every error ggq raises on bad input. Each is also the builtin a caller would already catch.

GGQError                                 exit code of the command line tools: 1
    FormatError(ValueError)              3  the file is wrong; says where
        MagicError                          does not begin with "GGUF"
        VersionError                        a version ggq does not read
            ByteOrderError                  a big-endian file
        TruncatedError                      the file ends inside something
        LimitError                          a count or length no file of this size can hold
        MetadataKeyError                    an empty or non-UTF-8 key
            DuplicateKeyError
            MissingKeyError(KeyError)
        MetadataTypeError                   a value of an unknown, nested or unexpected type
        AlignmentError                      general.alignment is not a usable power of two
        TensorNameError                     an empty, overlong or non-UTF-8 tensor name
            DuplicateTensorError
        TensorShapeError                    dimensions that cannot be
        TensorTypeError(UnknownTypeError)   a tensor type number ggq does not know
        TensorBoundsError                   a tensor that is not where it must be
        SplitError                          the shards of a model do not belong together
            MissingShardError            4
    UnknownTypeError(KeyError)           3  a tensor type this version does not know
    UnsupportedModelError(ValueError)    3  an architecture or config value ggq does not implement
    ConvertError(ValueError)             3  the source of a conversion is wrong
        ImatrixError                        an importance matrix is wrong or of another model
        CalibrationTextError                the text to calibrate with is too short or no text
        CalibrationError                    a calibration folder is wrong or lacks something
        SafetensorsError                    a safetensors file is wrong
        PickleError                         weights that could run code when read
        MissingFileError             4      a file of the model is not in its directory
        HostileNameError                    a file name that would leave the cache
    QuantizeError(ValueError)            3  a value a tensor type cannot store; says where
    RecipeError(ValueError)              1  a tensor cannot have the type it is to get
        FallbackError                       a fallback is needed, but not allowed
        ImatrixNeededError                  a type that is useless without importance matrix
    TokenizerError(ValueError)           3  the tokenizer data is wrong or of an unknown kind
    TemplateError(ValueError)            1  the chat template refuses the messages or fails
    UsageError(ValueError)               2  the command line asks for something impossible
        UnknownPresetError                  no such --type or tensor type
    NotFoundError                        4  nothing there, or not reachable offline
        DownloadError                       the hub did not deliver what it lists
    ContextError(ValueError)             1  a text does not fit in the context
    OutOfMemoryError(MemoryError)        5  more memory needed than there is, refused beforehand
    WriteError(ValueError)               1  the output cannot be what was announced
        OutputBusyError                     another process is writing the same file
    DiskFullError(OSError)               6  no space for the output
"""

from __future__ import annotations

import errno
from typing import ClassVar

# What the system says when a disk, quota or file size limit is full.
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class GGQError(Exception):
    """Base of all errors ggq raises on bad input."""

    exit_code: ClassVar[int] = 1


class UnknownTypeError(GGQError, KeyError):
    """A tensor type this version does not know."""

    exit_code = 3

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FormatError(GGQError, ValueError):
    """The file is wrong. `path` and `offset_bytes` say where, when known."""

    exit_code = 3

    def __init__(
        self, message: str, *, path: object = None, offset_bytes: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else str(path)
        self.offset_bytes = offset_bytes

    def __str__(self) -> str:
        prefix = "" if self.path is None else f"{self.path}: "
        suffix = "" if self.offset_bytes is None else f" (at byte {self.offset_bytes:,})"
        return f"{prefix}{self.message}{suffix}"


class MagicError(FormatError):
    """The file does not begin with "GGUF"."""


class VersionError(FormatError):
    """The file has a version ggq does not read."""


class ByteOrderError(VersionError):
    """The file is big-endian."""


class TruncatedError(FormatError):
    """The file ends inside something."""


class LimitError(FormatError):
    """A count or length that no file of this size can hold."""


class MetadataKeyError(FormatError):
    """A metadata key is empty or not UTF-8."""


class DuplicateKeyError(MetadataKeyError):
    """A metadata key occurs twice."""


class MissingKeyError(MetadataKeyError, KeyError):
    """A metadata key that is needed is not there."""


class MetadataTypeError(FormatError):
    """A metadata value has an unknown, nested or unexpected type."""


class AlignmentError(FormatError):
    """general.alignment is not a usable power of two."""


class TensorNameError(FormatError):
    """A tensor name is empty, too long or not UTF-8."""


class DuplicateTensorError(TensorNameError):
    """A tensor name occurs twice."""


class TensorShapeError(FormatError):
    """A tensor has dimensions that cannot be."""


class TensorTypeError(FormatError, UnknownTypeError):
    """A tensor has a type number ggq does not know."""


class TensorBoundsError(FormatError):
    """A tensor is not where it must be."""


class SplitError(FormatError):
    """The shards of a model do not belong together."""


class MissingShardError(SplitError):
    """A shard of the model is not beside the others."""

    exit_code = 4


class UnsupportedModelError(GGQError, ValueError):
    """An architecture or config value ggq does not implement."""

    exit_code = 3


class ConvertError(GGQError, ValueError):
    """The source of a conversion is wrong."""

    exit_code = 3


class ImatrixError(ConvertError):
    """An importance matrix file is wrong, or it belongs to another model."""


class CalibrationTextError(ConvertError):
    """The text to calibrate with is too short, or it is no text."""


class CalibrationError(ConvertError):
    """A calibration folder is wrong, not complete, or lacks what is asked of it."""


class SafetensorsError(ConvertError):
    """A safetensors file is wrong."""


class PickleError(ConvertError):
    """The weights are in a format that could run code when read."""


class MissingFileError(ConvertError):
    """A file of the model is not in its directory."""

    exit_code = 4


class HostileNameError(ConvertError):
    """A repository lists a file name that would leave the cache."""


class QuantizeError(GGQError, ValueError):
    """A value that a tensor type cannot store. `row` and `column` say where, when known."""

    exit_code = 3

    def __init__(self, message: str, *, row: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class RecipeError(GGQError, ValueError):
    """A tensor cannot have the type it is to get."""


class FallbackError(RecipeError):
    """A tensor needs a fallback, and fallbacks are not allowed."""


class ImatrixNeededError(RecipeError):
    """A tensor is to get a type that is useless without an importance matrix."""


class TokenizerError(GGQError, ValueError):
    """The tokenizer data is wrong or of an unknown kind."""

    exit_code = 3


class TemplateError(GGQError, ValueError):
    """The chat template refuses the messages, does not work, or does too much."""


class UsageError(GGQError, ValueError):
    """The command line asks for something impossible."""

    exit_code = 2


class UnknownPresetError(UsageError):
    """There is no such preset or tensor type."""


class NotFoundError(GGQError):
    """There is nothing under that name, or it cannot be reached offline."""

    exit_code = 4


class ContextError(GGQError, ValueError):
    """A text does not fit in the context."""


class DownloadError(NotFoundError):
    """The hub did not deliver what it lists."""


class OutOfMemoryError(GGQError, MemoryError):
    """More memory is needed than there is; refused beforehand."""

    exit_code = 5


class WriteError(GGQError, ValueError):
    """The output cannot be what was announced."""


class OutputBusyError(WriteError):
    """Another process is writing the same file."""


class DiskFullError(GGQError, OSError):
    """There is no space for the output."""

    exit_code = 6
