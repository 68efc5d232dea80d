"""The presets of llama-quantize: a name, a general.file_type number and the type most tensors get.

Facts: llama.cpp tools/quantize/quantize.cpp (names and aliases), include/llama.h `llama_ftype`
(numbers), src/llama-quant.cpp `llama_ftype_get_default_type` (default types) and
src/llama-model-loader.cpp (the number of a file that states none).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ggq import blocks
from ggq.blocks import BlockType
from ggq.errors import UnknownPresetError

GUESSED = 1024  # flag of a general.file_type that was counted from the tensors, not read
COPY = "COPY"
REFUSED_TARGETS = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")  # no weight is stored so


@dataclass(frozen=True)
class Preset:
    """One mixture: `default` is the type of every tensor that no rule treats specially."""

    name: str
    file_type: int
    default: BlockType

    @property
    def copies(self) -> bool:
        """Every tensor keeps the type it has."""
        return self.name == COPY

    @property
    def quantized(self) -> bool:
        """The default is a block type; only then do overrides, mixture and fallbacks apply."""
        return is_quantized(self.default)


_DEFAULTS = {
    "F32": (0, "F32"),
    "F16": (1, "F16"),
    "Q4_0": (2, "Q4_0"),
    "Q4_1": (3, "Q4_1"),
    "Q8_0": (7, "Q8_0"),
    "Q5_0": (8, "Q5_0"),
    "Q5_1": (9, "Q5_1"),
    "Q2_K": (10, "Q2_K"),
    "Q3_K_S": (11, "Q3_K"),
    "Q3_K_M": (12, "Q3_K"),
    "Q3_K_L": (13, "Q3_K"),
    "Q4_K_S": (14, "Q4_K"),
    "Q4_K_M": (15, "Q4_K"),
    "Q5_K_S": (16, "Q5_K"),
    "Q5_K_M": (17, "Q5_K"),
    "Q6_K": (18, "Q6_K"),
    "IQ2_XXS": (19, "IQ2_XXS"),
    "IQ2_XS": (20, "IQ2_XS"),
    "Q2_K_S": (21, "Q2_K"),
    "IQ3_XS": (22, "IQ3_S"),
    "IQ3_XXS": (23, "IQ3_XXS"),
    "IQ1_S": (24, "IQ1_S"),
    "IQ4_NL": (25, "IQ4_NL"),
    "IQ3_S": (26, "IQ3_S"),
    "IQ3_M": (27, "IQ3_S"),
    "IQ2_S": (28, "IQ2_XS"),
    "IQ2_M": (29, "IQ2_S"),
    "IQ4_XS": (30, "IQ4_XS"),
    "IQ1_M": (31, "IQ1_M"),
    "BF16": (32, "BF16"),
    "TQ1_0": (36, "TQ1_0"),
    "TQ2_0": (37, "TQ2_0"),
    "MXFP4_MOE": (38, "MXFP4"),
    "Q1_0": (40, "Q1_0"),
    "Q2_0": (41, "Q2_0"),
    COPY: (0, "F32"),
}
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# Types whose number is not that of the preset with their name.
_OTHER_NUMBERS = {"Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "NVFP4": 39}


def is_quantized(block: BlockType) -> bool:
    """Whether a type packs several weights into one block."""
    return block.weights > 1


def all_presets() -> list[Preset]:
    """Every preset in the order of llama.cpp's numbers, COPY last."""
    return [Preset(name, n, blocks.by_name(default)) for name, (n, default) in _DEFAULTS.items()]


def preset_names() -> list[str]:
    """Every name `preset` accepts, aliases included."""
    return [*_DEFAULTS, *_ALIASES]


def preset(name: str) -> Preset:
    """Preset by llama-quantize's name in any case ("q4_k" is Q4_K_M) or its number.

    Raises UnknownPresetError.
    """
    upper = name.strip().upper()
    if upper.isdecimal():
        numbers = {str(n): known for known, (n, _) in _DEFAULTS.items() if known != COPY}
        upper = numbers.get(upper, upper)
    upper = _ALIASES.get(upper, upper)
    if upper not in _DEFAULTS:
        known = ", ".join(preset_names())
        raise UnknownPresetError(f"type {name!r} is not one of llama-quantize's; known: {known}")
    file_type, default = _DEFAULTS[upper]
    return Preset(upper, file_type, blocks.by_name(default))


def target_type(name: str) -> BlockType:
    """Type a tensor can be written in, by ggml's name in any case.

    Raises UnknownPresetError for an unknown type and for one that stores no weights.
    """
    targets = {b.name: b for b in blocks.all_types() if b.name not in REFUSED_TARGETS}
    try:
        return targets[name.strip().upper()]
    except KeyError:
        known = ", ".join(targets)
        raise UnknownPresetError(
            f"tensor type {name!r} cannot be written; these can: {known}"
        ) from None


def guessed_file_type(types: Iterable[BlockType]) -> int:
    """general.file_type of a file that states none: its commonest tensor type, marked as guessed.

    `types` in llama-quantize's tensor order: the first type to reach the largest count wins.
    """
    counts: dict[str, int] = {}
    commonest = "F32"
    for block in types:
        counts[block.name] = counts.get(block.name, 0) + 1
        if counts[block.name] > counts.get(commonest, 0):
            commonest = block.name
    return GUESSED | _number_of(commonest)


def _number_of(type_name: str) -> int:
    if type_name in _OTHER_NUMBERS:
        return _OTHER_NUMBERS[type_name]
    number, _ = _DEFAULTS.get(type_name, (0, ""))
    return number
