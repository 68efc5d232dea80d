"""The mixture: which tensors of a preset get another type than its default, as one table.

Facts: llama.cpp src/llama-quant.cpp `llama_tensor_get_type_impl`. All divisions are integer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

FALCON = "falcon"
BAILINGMOE3 = "bailingmoe3"


class Category(Enum):
    """What a tensor is to the mixture; the value is how a plan calls it."""

    OUTPUT = "output"
    EMBEDDING = "token embedding"
    V = "attention v"
    K = "attention k"
    Q = "attention q"
    ATTENTION_OUTPUT = "attention output"
    UP = "ffn up"
    GATE = "ffn gate"
    DOWN = "ffn down"
    OTHER = "other"


# A fused qkv or kv_b tensor holds v, so it is treated as v. The first match counts.
_PARTS = (
    ("attn_qkv.weight", Category.V),
    ("attn_kv_b.weight", Category.V),
    ("attn_v.weight", Category.V),
    ("attn_k.weight", Category.K),
    ("attn_q.weight", Category.Q),
    ("attn_output.weight", Category.ATTENTION_OUTPUT),
    ("ffn_up", Category.UP),
    ("ffn_gate", Category.GATE),
    ("ffn_down", Category.DOWN),
)
_WHOLE = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.EMBEDDING,
    "per_layer_token_embd.weight": Category.EMBEDDING,
}


def category_of(name: str) -> Category:
    """Category of a tensor by its name."""
    if name in _WHOLE:
        return _WHOLE[name]
    return next((category for part, category in _PARTS if part in name), Category.OTHER)


@dataclass(frozen=True)
class Case:
    """What a rule may look at. `layer` of `layers` is where the tensor stands in its category."""

    preset: str
    default: str
    architecture: str
    experts: int
    queries_per_kv: int
    imatrix: bool
    layer: int
    layers: int
    matrices: int


@dataclass(frozen=True)
class When:
    """A condition and how a plan words it; "" when it goes without saying."""

    text: str
    holds: Callable[[Case], bool]


@dataclass(frozen=True)
class Rule:
    """In these presets (none: in all), when every condition holds, the tensor gets `type`.

    `type` "" keeps the preset's default and ends the search.
    """

    presets: str
    type: str
    when: tuple[When, ...] = ()

    def applies(self, case: Case) -> bool:
        """Whether this rule decides `case`."""
        return (not self.presets or case.preset in self.presets.split()) and all(
            condition.holds(case) for condition in self.when
        )


def more_bits(layer: int, layers: int) -> bool:
    """The first eighth, the last eighth and every third layer between."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


MORE = When("in the first or last eighth or every third between",
            lambda c: more_bits(c.layer, c.layers))  # fmt: skip
FIRST_8TH = When("in the first eighth", lambda c: c.layer < c.layers // 8)
FIRST_16TH = When("in the first sixteenth", lambda c: c.layer < c.layers // 16)
FIRST_2 = When("first two", lambda c: c.layer < 2)
FIRST_4 = When("first four", lambda c: c.layer < 4)
MIDDLE = When("in the middle six eighths",
              lambda c: c.layers // 8 <= c.layer < 7 * c.layers // 8)  # fmt: skip
SHARED_KV = When("4 or more query heads per kv head", lambda c: c.queries_per_kv >= 4)
EXPERTS_4 = When("4 or more experts", lambda c: c.experts >= 4)
EXPERTS_8 = When("8 experts", lambda c: c.experts == 8)
IMATRIX = When("with imatrix", lambda c: c.imatrix)
NO_IMATRIX = When("without imatrix", lambda c: not c.imatrix)
IS_FALCON = When("falcon", lambda c: c.architecture == FALCON)
NOT_FALCON = When("", lambda c: c.architecture != FALCON)
STACKED = When("experts stacked in one tensor", lambda c: c.matrices > 1)
NOT_BAILINGMOE3 = When("", lambda c: c.architecture != BAILINGMOE3)
NOT_Q8 = When("", lambda c: c.default != "Q8_0")

# Presets of about two bits and less: they have rules of their own and take no others.
_TINY = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_IQ2 = "IQ2_S IQ2_M"
_IQ1 = "IQ1_S IQ1_M"
_RAISED_BY_8_EXPERTS = "Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS"

_MXFP4_DENSE = Rule("MXFP4_MOE", "Q8_0")
_MXFP4_FFN = Rule("MXFP4_MOE", "MXFP4", (STACKED,))
_MXFP4_STACK = Rule("MXFP4_MOE", "MXFP4", (STACKED, NOT_BAILINGMOE3))
_MXFP4 = (_MXFP4_STACK, _MXFP4_DENSE)
_FFN_IN = (_MXFP4_FFN, _MXFP4_DENSE, Rule("IQ3_XS", "IQ3_XXS", (MIDDLE,)))

# The first rule that applies decides; a case without one keeps the preset's default.
MIXTURE: dict[Category, tuple[Rule, ...]] = {
    Category.OUTPUT: (
        Rule("MXFP4_MOE", "Q8_0"),
        Rule("", "Q8_0", (IS_FALCON,)),
        Rule(f"{_TINY} IQ3_XXS", "Q5_K"),
        Rule("", "Q6_K", (NOT_Q8,)),
    ),
    Category.EMBEDDING: (
        *_MXFP4,
        Rule(f"IQ2_XXS IQ2_XS {_IQ1}", "Q2_K"),
        Rule(f"{_IQ2} IQ3_XXS", "IQ3_S"),
        Rule("TQ1_0 TQ2_0 Q2_0", "Q4_K"),
    ),
    Category.V: (
        *_MXFP4,
        Rule(_TINY, "Q4_K", (SHARED_KV,)),
        Rule(_TINY, "Q4_K", (EXPERTS_4,)),
        Rule(_IQ2, "IQ3_S"),
        Rule(_TINY, "Q2_K"),
        Rule("", "Q8_0", (EXPERTS_8,)),
        Rule("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", "Q4_K", (SHARED_KV,)),
        Rule("Q2_K", "Q3_K"),
        Rule("IQ3_XXS", "IQ3_S", (NO_IMATRIX,)),
        Rule("IQ3_M", "Q4_K"),
        Rule("Q3_K_M", "Q5_K", (FIRST_2,)),
        Rule("Q3_K_M", "Q4_K"),
        Rule("Q3_K_L", "Q5_K"),
        Rule("IQ4_NL IQ4_XS", "Q5_K", (SHARED_KV,)),
        Rule("Q4_K_M Q5_K_M", "Q6_K", (MORE,)),
        Rule("Q4_K_S", "Q5_K", (FIRST_4,)),
    ),
    Category.K: (
        *_MXFP4,
        Rule(_TINY, "Q4_K", (EXPERTS_8,)),
        Rule("", "Q8_0", (EXPERTS_8,)),
        Rule("IQ3_XS", "IQ3_XXS"),
        Rule("IQ3_XXS", "IQ2_S"),
    ),
    Category.Q: (
        *_MXFP4,
        Rule("IQ3_XS", "IQ3_XXS"),
        Rule("IQ3_XXS", "IQ2_S"),
    ),
    Category.ATTENTION_OUTPUT: (
        *_MXFP4,
        Rule(_TINY, "Q5_K", (EXPERTS_8,)),
        Rule(_IQ1, "IQ2_XXS"),
        Rule(_IQ2, "IQ3_S"),
        Rule("Q3_K_L", "Q4_K", (IS_FALCON,)),
        Rule("", "", (IS_FALCON,)),
        Rule(_RAISED_BY_8_EXPERTS, "Q5_K", (EXPERTS_8,)),
        Rule("", "", (EXPERTS_8,)),
        Rule("Q2_K", "Q3_K"),
        Rule("IQ3_XXS", "IQ3_S"),
        Rule("Q3_K_M IQ3_M", "Q4_K"),
        Rule("Q3_K_L", "Q5_K"),
    ),
    Category.DOWN: (
        _MXFP4_FFN,
        _MXFP4_DENSE,
        Rule(_IQ2, "IQ3_S", (FIRST_8TH,)),
        Rule(_TINY, "Q2_K", (FIRST_8TH,)),
        Rule("Q2_K", "Q3_K"),
        Rule("Q2_K_S", "Q4_K", (FIRST_8TH,)),
        Rule("IQ3_XXS", "Q4_K", (NO_IMATRIX, FIRST_8TH)),
        Rule("IQ3_XXS", "Q3_K", (NO_IMATRIX,)),
        Rule("Q3_K_M", "Q5_K", (FIRST_16TH,)),
        Rule("Q3_K_M", "Q4_K", (NOT_FALCON,)),
        Rule("Q3_K_M", "Q4_K", (IS_FALCON, MORE)),
        Rule("Q3_K_L", "Q4_K", (IS_FALCON,)),
        Rule("Q3_K_L", "Q5_K"),
        Rule("IQ3_M", "Q4_K", (FIRST_8TH,)),
        Rule("IQ3_M", "Q4_K", (EXPERTS_8, MORE)),
        Rule("Q4_K_M", "Q6_K", (IS_FALCON, FIRST_16TH)),
        Rule("Q4_K_M", "Q5_K", (IS_FALCON, MORE)),
        Rule("Q4_K_M", "Q6_K", (NOT_FALCON, MORE)),
        Rule("Q5_K_M", "Q6_K", (MORE,)),
        Rule("Q4_K_S", "Q5_K", (NOT_FALCON, FIRST_8TH)),
        Rule("IQ4_NL IQ4_XS", "Q5_K", (NO_IMATRIX, FIRST_8TH)),
        Rule("Q4_0", "Q4_1", (IMATRIX, FIRST_8TH)),
        Rule("Q5_0", "Q5_1", (IMATRIX, FIRST_8TH)),
    ),
    Category.GATE: _FFN_IN,
    Category.UP: _FFN_IN,
    Category.OTHER: _MXFP4,
}
TINY_PRESETS = frozenset(_TINY.split())


def choose(category: Category, case: Case) -> tuple[str, str]:
    """Type name and rule text for a tensor of `category`; the text is "" for the default."""
    for rule in MIXTURE[category]:
        if rule.applies(case):
            if not rule.type:
                break
            reasons = [condition.text for condition in rule.when if condition.text]
            return rule.type, ", ".join((category.value, *reasons))
    return case.default, ""
