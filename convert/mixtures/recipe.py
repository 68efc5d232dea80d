"""Which type every tensor of a preset gets: exactly what llama-quantize does, as a pure function.

Order of decisions for one tensor: may it change at all; an explicit embedding or output type; the
first --tensor-type that matches; the mixture; the shape fallback.
Facts: llama.cpp src/llama-quant.cpp `llama_tensor_get_type`, `tensor_type_fallback` and
`tensor_requires_imatrix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ggq.blocks import BlockType, by_name
from ggq.convert.mixtures.mixture import TINY_PRESETS, Case, Category, category_of, choose
from ggq.convert.mixtures.model_facts import ModelFacts, layer_of
from ggq.convert.mixtures.overrides import Override
from ggq.convert.mixtures.presets import Preset
from ggq.convert.mixtures.quantizable import why_kept
from ggq.errors import FallbackError, RecipeError
from ggq.spec import TensorInfo

# What a type becomes when the columns are no multiple of its block.
FALLBACKS = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
SMALL_BLOCK = 32  # types of this block size and below have F16 as their only fallback
NEED_IMATRIX = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
NOT_BELOW_Q8 = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}


@dataclass(frozen=True)
class Options:
    """The command line's say in the recipe; of `overrides` the first match wins.

    `kept` is the type of float tensors that may not be quantized; None leaves them as they are.
    """

    pure: bool = False
    overrides: tuple[Override, ...] = ()
    output: BlockType | None = None
    token_embedding: BlockType | None = None
    leave_output: bool = False
    has_imatrix: bool = False
    allow_fallback: bool = True
    kept: BlockType | None = None


@dataclass(frozen=True)
class Decision:
    """The type of one tensor, the rule that chose it, and the type `wanted` but for its shape."""

    tensor: TensorInfo
    type: BlockType
    rule: str
    wanted: BlockType
    needs_imatrix: bool = False

    @property
    def fell_back(self) -> bool:
        """The shape did not allow the wanted type."""
        return self.type is not self.wanted


class _Choice(NamedTuple):
    """What the rules say: the type `wanted`, and the one they `settled` on seeing the columns."""

    wanted: BlockType
    settled: BlockType
    rule: str


def decide(
    facts: ModelFacts, tensors: Sequence[TensorInfo], preset: Preset, options: Options
) -> list[Decision]:
    """One decision per tensor. `tensors` must be in llama-quantize's order (`order_key`).

    Raises RecipeError for a type that a tensor cannot have, FallbackError when a fallback is
    needed and not allowed.
    """
    one_pass = _Pass(facts, tensors, preset, options)
    decisions = [one_pass.decide(tensor) for tensor in tensors]
    if not options.allow_fallback:
        _refuse_fallbacks(decisions, preset)
    return decisions


class _Pass:
    """One pass over the tensors, counting those of each category that reach the mixture.

    A tensor taken by an override does not count, so the layers after it stand one place earlier:
    llama-quantize has it so.
    """

    def __init__(
        self, facts: ModelFacts, tensors: Sequence[TensorInfo], preset: Preset, options: Options
    ) -> None:
        self.facts = facts
        self.preset = preset
        self.options = options
        categories = [category_of(tensor.name) for tensor in tensors]
        self.tied = Category.OUTPUT not in categories
        self.of_v = categories.count(Category.V)
        self.seen = dict.fromkeys(Category, 0)

    def decide(self, tensor: TensorInfo) -> Decision:
        if reason := self._why_kept(tensor):
            block = self._kept_type(tensor)
            return Decision(tensor, block, f"kept: {reason}", block)
        category = category_of(tensor.name)
        if explicit := self._explicit(tensor, category):
            _require_fit(tensor, explicit)
            return self._decision(tensor, category, explicit, explicit.settled)
        choice = self._choice(tensor, category)
        fitting = _fitting(tensor, choice.settled) if self.preset.quantized else choice.settled
        return self._decision(tensor, category, choice, fitting)

    def _decision(
        self, tensor: TensorInfo, category: Category, choice: _Choice, block: BlockType
    ) -> Decision:
        rule = choice.rule
        if block is not choice.wanted:
            rule += f"; {tensor.shape[-1]} columns: {choice.wanted.name} -> {block.name}"
        needs = category not in (Category.OUTPUT, Category.EMBEDDING) and (
            block.name in NEED_IMATRIX or (block.name == "Q2_K" and self.preset.name == "Q2_K_S")
        )
        return Decision(tensor, block, rule, choice.wanted, needs)

    def _why_kept(self, tensor: TensorInfo) -> str:
        if self.preset.copies:
            return "COPY"
        if self.options.leave_output and tensor.name == "output.weight":
            return "--leave-output-tensor"
        return why_kept(tensor.name, tensor.shape, self.facts.architecture)

    def _kept_type(self, tensor: TensorInfo) -> BlockType:
        floats = ("F16", "BF16", "F32", "F64")
        kept = self.options.kept
        return kept if kept is not None and tensor.type.name in floats else tensor.type

    def _explicit(self, tensor: TensorInfo, category: Category) -> _Choice | None:
        output, embedding = self.options.output, self.options.token_embedding
        # The table of per-layer embeddings is large: it may have a --tensor-type of its own.
        named = tensor.name != "token_embd.weight" and self._override(tensor) is not None
        if embedding is not None and category is Category.EMBEDDING and not named:
            return _Choice(embedding, embedding, "--token-embedding-type")
        if output is not None and category is Category.OUTPUT:
            return _Choice(output, output, "--output-tensor-type")
        return None

    def _override(self, tensor: TensorInfo) -> Override | None:
        return next((o for o in self.options.overrides if o.matches(tensor.name)), None)

    def _choice(self, tensor: TensorInfo, category: Category) -> _Choice:
        default = self.preset.default
        if not self.preset.quantized:
            return _Choice(default, default, f"{self.preset.name}: default")
        if override := self._override(tensor):
            return _Choice(override.type, override.type, f"--tensor-type {override.text}")
        if self.options.pure:
            return _Choice(default, default, f"{self.preset.name}: --pure")
        if any(part in tensor.name for part in NOT_BELOW_Q8.get(self.facts.architecture, ())):
            q8 = by_name("Q8_0")
            return _Choice(q8, q8, f"{self.facts.architecture}: never below Q8_0")
        return self._mixture(tensor, category)

    def _mixture(self, tensor: TensorInfo, category: Category) -> _Choice:
        role, tied = category, ""
        if self.tied and category is Category.EMBEDDING:
            role, tied = Category.OUTPUT, ", tied embedding"
            if self.options.output is not None:
                output = self.options.output
                return _Choice(output, output, f"--output-tensor-type{tied}")
        name, wording = choose(role, self._case(tensor, role))
        self.seen[role] += 1
        if self._raised_in_70b(role, name):
            name, wording = "Q5_K", f"{role.value}, 70B"
        rule = f"{self.preset.name}: {wording or 'default'}{tied}"
        wanted = by_name(name)
        # The output tensor has its own way out of odd columns, whatever type it is to get.
        odd = role is Category.OUTPUT and tensor.shape[-1] % self.preset.default.weights
        return _Choice(wanted, by_name("Q8_0") if odd else wanted, rule)

    def _raised_in_70b(self, role: Category, chosen: str) -> bool:
        own_rules = self.preset.name in TINY_PRESETS or self.preset.name == "MXFP4_MOE"
        low = chosen in ("Q3_K", "Q4_K")
        return role is Category.V and self.facts.is_70b and low and not own_rules

    def _case(self, tensor: TensorInfo, role: Category) -> Case:
        layer, layers = self._place(tensor, role)
        return Case(
            preset=self.preset.name,
            default=self.preset.default.name,
            architecture=self.facts.architecture,
            experts=self.facts.n_expert,
            queries_per_kv=self.facts.queries_per_kv,
            imatrix=self.options.has_imatrix,
            layer=layer,
            layers=layers,
            matrices=tensor.shape[-3] if len(tensor.shape) > 2 else 1,
        )

    def _place(self, tensor: TensorInfo, role: Category) -> tuple[int, int]:
        """Where a tensor stands among how many: counted, or its layer in a model with experts."""
        if role is Category.V:
            return self.seen[role], self.of_v
        counted = self.preset.name in TINY_PRESETS or self.preset.name == "MXFP4_MOE"
        in_ffn = role in (Category.UP, Category.GATE, Category.DOWN)
        if not in_ffn or counted or self.facts.n_expert <= 1:
            return self.seen[role], self.facts.n_layer
        layer = layer_of(tensor.name)
        if not 0 <= layer < self.facts.n_layer:
            raise RecipeError(
                f"tensor {tensor.name} is in none of the layers 0 to {self.facts.n_layer - 1};"
                " the mixture of a model with experts needs its layer, --pure does not"
            )
        return layer, self.facts.n_layer


def _fitting(tensor: TensorInfo, block: BlockType) -> BlockType:
    """`block` or what it falls back to for the columns of `tensor`. Raises RecipeError."""
    columns = tensor.shape[-1]
    if columns % block.weights == 0:
        return block
    if block.name in FALLBACKS:
        block = by_name(FALLBACKS[block.name])
    elif block.weights > SMALL_BLOCK:
        raise RecipeError(
            f"tensor {tensor.name} has {columns} columns, but {block.name} needs a multiple of"
            f" {block.weights} and has no fallback; give it another type with --tensor-type"
        )
    return by_name("F16") if columns % block.weights else block


def _require_fit(tensor: TensorInfo, choice: _Choice) -> None:
    columns, block = tensor.shape[-1], choice.settled
    if columns % block.weights:
        raise RecipeError(
            f"{choice.rule} {block.name} needs a multiple of {block.weights} columns, but tensor"
            f" {tensor.name} has {columns}; give a type with smaller blocks"
        )


def _refuse_fallbacks(decisions: Sequence[Decision], preset: Preset) -> None:
    fallen = [decision for decision in decisions if decision.fell_back]
    if not fallen:
        return
    first = fallen[0]
    raise FallbackError(
        f"--no-fallback: {len(fallen)} of {len(decisions)} tensors cannot have the type that"
        f" {preset.name} gives them, first {first.tensor.name}: {first.tensor.shape[-1]} columns"
        f" are no multiple of {first.wanted.weights}, so {first.wanted.name} would become"
        f" {first.type.name}; choose a type with blocks of 32 such as Q8_0, or allow fallbacks"
    )
