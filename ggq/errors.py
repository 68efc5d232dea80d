"""Every error ggq raises on bad input. Each is also the builtin a caller would already catch.

GGQError
    FormatError(ValueError)              the file is wrong; says where
    UnknownTypeError(KeyError)           a tensor type this version does not know
    UnsupportedModelError(ValueError)    an architecture or config value ggq does not implement
    ConvertError(ValueError)             the source of a conversion is wrong
    TokenizerError(ValueError)           the tokenizer data is wrong or of an unknown kind
"""


class GGQError(Exception):
    """Base of all errors ggq raises on bad input."""


class UnknownTypeError(GGQError, KeyError):
    """A tensor type this version does not know."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FormatError(GGQError, ValueError):
    """The file is wrong."""


class UnsupportedModelError(GGQError, ValueError):
    """An architecture or config value ggq does not implement."""


class ConvertError(GGQError, ValueError):
    """The source of a conversion is wrong."""


class TokenizerError(GGQError, ValueError):
    """The tokenizer data is wrong or of an unknown kind."""
