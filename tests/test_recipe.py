"""Plans equal llama-quantize's: against llama.cpp's own snapshots and against the native tool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ggq.blocks import by_name
from ggq.convert.mixtures.model_facts import ModelFacts, layer_of, order_key
from ggq.convert.mixtures.overrides import parse_override
from ggq.convert.mixtures.plan import make_plan
from ggq.convert.mixtures.presets import Preset, all_presets, guessed_file_type, preset, target_type
from ggq.convert.mixtures.quantizable import dimensions, why_kept
from ggq.convert.mixtures.recipe import Options, decide
from ggq.errors import FallbackError, RecipeError, UnknownPresetError, UsageError
from ggq.metadata import Metadata
from ggq.reader import Reader
from ggq.spec import TensorInfo, ValueType
from tests.golden.make_recipe import digest
from tests.recipe_inputs import IMATRIX, RECIPE_MODELS, cases
from tests.snapshot_models import MODELS

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("recipe.json").read_text())
F32 = by_name("F32")
LLAMA = ModelFacts("llama", n_layer=16, n_head=32, n_head_kv=8)


def snapshot(path: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Preset -> (default type, tensor -> type where it is another)."""
    sections: dict[str, tuple[str, dict[str, str]]] = {}
    for line in path.read_text().splitlines():
        if head := re.fullmatch(r"\[(\w+)\] (\w+)", line):
            sections[head[1]] = (head[2].upper(), {})
        elif line and not line.startswith("#"):
            name, _, kind = line.rpartition(" ")
            sections[list(sections)[-1]][1][name] = kind.upper()
    return sections


def outcome(reader: Reader, wanted: Preset, options: Options) -> str:
    """What the golden file holds of a plan."""
    try:
        plan = make_plan(reader.metadata, reader.tensors.values(), wanted, options)
    except RecipeError:
        return "refused"
    needed = bool(plan.needing_imatrix) and not options.has_imatrix
    return digest([(t.name, t.type.name) for t in plan.tensors]) + " imatrix" * needed


@pytest.mark.parametrize("name", MODELS)
def test_plans_equal_the_snapshots_of_llama_cpp(
    name: str, tmp_path: Path, llama_cpp_tree: Path
) -> None:
    path = MODELS[name].write(tmp_path / "header.gguf")
    sections = snapshot(llama_cpp_tree / f"tests/snapshots/{name}.schema")
    assert len(sections) == 33
    with Reader(path, header_only=True) as reader:
        metadata, tensors = reader.metadata, list(reader.tensors.values())
    for preset_name, (default, others) in sections.items():
        plan = make_plan(metadata, tensors, preset(preset_name), Options())
        found = {t.name: t.type.name for t in plan.tensors if not t.rule.startswith("kept")}
        assert plan.preset.default.name == default
        assert others.keys() <= found.keys()
        assert found == {tensor: others.get(tensor, default) for tensor in found}, preset_name


@pytest.mark.parametrize(("model", "name", "arguments"), list(cases()))
def test_plans_equal_those_of_llama_quantize(
    model: str, name: str, arguments: list[str], tmp_path: Path
) -> None:
    path = RECIPE_MODELS[model].write(tmp_path)
    expected = GOLDEN["plans"][f"{model} {name}".strip()]
    options = parsed(arguments)
    with Reader(path) as reader:
        found = {p.name: outcome(reader, p, options) for p in all_presets()}
    assert found == expected


def parsed(arguments: list[str]) -> Options:
    """Options of llama-quantize's arguments."""
    given: dict[str, list[str]] = {}
    flags = {"--pure", "--leave-output-tensor"}
    rest = iter(arguments)
    for word in rest:
        given.setdefault(word, []).append("" if word in flags else next(rest))
    output, embedding = given.get("--output-tensor-type"), given.get("--token-embedding-type")
    return Options(
        pure="--pure" in given,
        leave_output="--leave-output-tensor" in given,
        has_imatrix=given.get("--imatrix") == [IMATRIX],
        output=target_type(output[0]) if output else None,
        token_embedding=target_type(embedding[0]) if embedding else None,
        overrides=tuple(parse_override(text) for text in given.get("--tensor-type", [])),
    )


def types(
    names: list[str], preset_name: str, facts: ModelFacts = LLAMA, options: Options | None = None
) -> list[str]:
    """Types of matrices of 256 columns with these names."""
    tensors = [TensorInfo(name, (512, 256), F32) for name in names]
    decisions = decide(facts, tensors, preset(preset_name), options or Options())
    return [decision.type.name for decision in decisions]


DOWN = [f"blk.{n}.ffn_down.weight" for n in range(16)]
V = [f"blk.{n}.attn_v.weight" for n in range(16)]
WITH = Options(has_imatrix=True)


def test_first_ffn_down_gets_a_minimum_only_with_an_imatrix() -> None:
    for name, offset in (("Q4_0", "Q4_1"), ("Q5_0", "Q5_1")):
        assert types(DOWN, name) == [name] * 16
        assert types(DOWN, name, options=WITH) == [offset] * 2 + [name] * 14


def test_first_ffn_down_of_iq4_is_raised_only_without_an_imatrix() -> None:
    for name in ("IQ4_NL", "IQ4_XS"):
        assert types(DOWN, name) == ["Q5_K"] * 2 + [name] * 14
        assert types(DOWN, name, options=WITH) == [name] * 16


def test_iq3_xxs_without_an_imatrix_is_k_quants_where_it_hurts() -> None:
    ungrouped = ModelFacts("llama", n_layer=16, n_head=8, n_head_kv=8)
    assert types(DOWN, "IQ3_XXS") == ["Q4_K"] * 2 + ["Q3_K"] * 14
    assert types(DOWN, "IQ3_XXS", options=WITH) == ["IQ3_XXS"] * 16
    assert set(types(V, "IQ3_XXS", ungrouped)) == {"IQ3_S"}
    assert set(types(V, "IQ3_XXS", ungrouped, WITH)) == {"IQ3_XXS"}
    assert set(types(V, "IQ3_XXS", options=WITH)) == {"Q4_K"}


def test_other_presets_do_not_look_at_the_imatrix() -> None:
    names = [*DOWN, *V, "output.weight", "blk.0.attn_output.weight", "blk.0.ffn_up.weight"]
    for wanted in all_presets():
        if wanted.name not in ("Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS", "IQ3_XXS"):
            assert types(names, wanted.name) == types(names, wanted.name, options=WITH)


NEEDY = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S")


def test_which_presets_need_an_imatrix() -> None:
    tensors = [TensorInfo(f"blk.8.{part}.weight", (9, 256), F32) for part in ("ffn_up", "attn_k")]
    needy = {
        wanted.name
        for wanted in all_presets()
        if any(d.needs_imatrix for d in decide(LLAMA, tensors, wanted, Options()))
    }
    assert needy == set(NEEDY)


def test_embedding_and_output_never_need_an_imatrix() -> None:
    tensors = [
        TensorInfo(name, (9, 256), F32)
        for name in ("output.weight", "per_layer_token_embd.weight", "token_embd.weight")
    ]
    for name in NEEDY:
        decisions = decide(LLAMA, tensors, preset(name), Options(pure=True))
        assert not any(decision.needs_imatrix for decision in decisions)


def test_an_overridden_tensor_does_not_count() -> None:
    plain = types(V, "Q3_K_M")
    moved = types(V, "Q3_K_M", options=Options(overrides=(parse_override("blk.0.=f16"),)))
    assert plain == ["Q5_K"] * 2 + ["Q4_K"] * 14
    assert moved == ["F16"] + ["Q5_K"] * 2 + ["Q4_K"] * 13


def test_llama_70b_raises_v() -> None:
    for arch, layers, heads, expected in (
        ("llama", 80, (64, 8), "Q5_K"),
        ("llama", 80, (64, 64), "Q4_K"),
        ("llama", 79, (64, 8), "Q4_K"),
        ("qwen2", 80, (64, 64), "Q5_K"),
        ("qwen3", 80, (64, 8), "Q4_K"),
        ("jais2", 68, (64, 8), "Q5_K"),
    ):
        facts = ModelFacts(arch, layers, n_head=heads[0], n_head_kv=heads[1])
        assert types(["blk.50.attn_v.weight"] * 40, "Q4_K_S", facts)[-1] == expected
    with_mtp = ModelFacts("llama", 81, n_layer_mtp=1, n_head=64, n_head_kv=8)
    assert with_mtp.is_70b


def test_glm5_next_keeps_low_rank_q_at_q8() -> None:
    names = ["blk.0.attn_q_a.weight", "blk.0.attn_v_b.weight", "blk.1.nextn.eh_proj.weight"]
    assert types(names, "Q4_K_M", ModelFacts("glm5-next", 16)) == ["Q8_0", "F32", "Q8_0"]
    assert types(names, "Q4_K_M", ModelFacts("deepseek2", 16)) == ["Q4_K"] * 3


def test_bailingmoe3_stacks_become_mxfp4_in_the_ffn_only() -> None:
    tensors = [
        TensorInfo(f"blk.0.{part}.weight", (4, 64, 256), F32) for part in ("attn_k_b", "ffn_up")
    ]
    wanted = preset("MXFP4_MOE")
    for arch, expected in (("bailingmoe3", ["Q8_0", "MXFP4"]), ("deepseek2", ["MXFP4"] * 2)):
        decisions = decide(ModelFacts(arch, 4, n_expert=4), tensors, wanted, Options())
        assert [d.type.name for d in decisions] == expected


# --- shapes --------------------------------------------------------------------------------------


def one(name: str, columns: int, preset_name: str, **options: object) -> tuple[str, str, bool]:
    """Type, rule and fell_back of one tensor of a model with an output."""
    tensors = [TensorInfo(n, (64, columns), F32) for n in ("output.weight", name)]
    facts = ModelFacts("gpt2", 16, n_head=8, n_head_kv=8)
    made = decide(facts, tensors, preset(preset_name), Options(**options))[-1]  # type: ignore[arg-type]
    return made.type.name, made.rule, made.fell_back


@pytest.mark.parametrize(
    ("preset_name", "by_32", "by_8"),
    [
        ("IQ1_S", "IQ4_NL", "F16"), ("IQ2_XXS", "IQ4_NL", "F16"), ("IQ3_S", "IQ4_NL", "F16"),
        ("IQ4_XS", "IQ4_NL", "F16"), ("Q2_0", "Q4_0", "F16"), ("Q2_K", "Q4_0", "F16"),
        ("Q3_K_S", "Q4_0", "F16"), ("TQ1_0", "Q4_0", "F16"), ("TQ2_0", "Q4_0", "F16"),
        ("Q4_K_M", "Q5_0", "F16"), ("Q5_K_M", "Q5_1", "F16"), ("Q6_K", "Q8_0", "F16"),
        ("Q8_0", "Q8_0", "F16"), ("Q4_1", "Q4_1", "F16"), ("IQ4_NL", "IQ4_NL", "F16"),
        ("MXFP4_MOE", "Q8_0", "F16"), ("F16", "F16", "F16"), ("BF16", "BF16", "BF16"),
    ],
)  # fmt: skip
def test_fallbacks(preset_name: str, by_32: str, by_8: str) -> None:
    assert one("blk.8.x.weight", 96, preset_name)[0] == by_32
    assert one("blk.8.x.weight", 40, preset_name)[0] == by_8


def test_a_fallback_says_so() -> None:
    made = one("blk.8.x.weight", 576, "Q4_K_M")
    assert made == ("Q5_0", "Q4_K_M: default; 576 columns: Q4_K -> Q5_0", True)
    assert not one("blk.8.x.weight", 512, "Q4_K_M")[2]
    assert one("output.weight", 576, "Q4_K_M")[::2] == ("Q8_0", True)


def test_q1_0_has_no_fallback() -> None:
    with pytest.raises(RecipeError, match=r"output\.weight has 96 columns, but Q6_K|Q1_0 needs"):
        one("blk.8.x.weight", 96, "Q1_0")


def test_no_fallback_is_an_error_that_names_the_first_tensor() -> None:
    with pytest.raises(FallbackError) as caught:
        one("blk.8.x.weight", 576, "Q4_K_M", allow_fallback=False)
    message = str(caught.value)
    assert "2 of 2 tensors" in message
    assert "output.weight: 576 columns are no multiple of 256" in message
    assert "Q6_K would become Q8_0" in message
    assert one("blk.8.x.weight", 512, "Q4_K_M", allow_fallback=False)[0] == "Q4_K"


def test_an_explicit_type_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(RecipeError, match="--output-tensor-type Q4_K needs a multiple of 256"):
        one("blk.8.x.weight", 96, "Q8_0", output=by_name("Q4_K"))


def test_a_layer_that_is_none_stops_a_model_with_experts() -> None:
    facts = ModelFacts("mixtral", 4, n_expert=8)
    for name in ("blk.4.ffn_down.weight", "ffn_up.weight"):
        with pytest.raises(RecipeError, match="in none of the layers 0 to 3"):
            types([name], "Q4_K_M", facts)
        assert types([name], "Q4_K_M", facts, Options(pure=True)) == ["Q4_K"]
    assert types(["blk.9.attn_k.weight"], "Q4_K_M", facts) == ["Q8_0"]


def test_kept_tensors_take_the_type_a_converter_gives_them() -> None:
    tensors = [
        TensorInfo("a_norm.weight", (256,), by_name("BF16")),
        TensorInfo("blk.0.ffn_gate_tid2eid.weight", (4, 4), by_name("I32")),
        TensorInfo("blk.0.x.weight", (4, 256), by_name("BF16")),
    ]
    for kept, expected in ((None, ["BF16", "I32", "Q8_0"]), (F32, ["F32", "I32", "Q8_0"])):
        decisions = decide(LLAMA, tensors, preset("q8_0"), Options(kept=kept))
        assert [d.type.name for d in decisions] == expected


def test_dimensions_do_not_count_leading_ones() -> None:
    shapes = [(), (5,), (1, 256), (256, 1), (1, 1), (1, 3, 4), (3, 1, 4), (2, 1, 1)]
    assert [dimensions(shape) for shape in shapes] == [1, 1, 1, 2, 1, 2, 3, 3]


def test_why_a_tensor_is_kept() -> None:
    assert why_kept("blk.0.attn_q.weight", (8, 8), "llama") == ""
    assert why_kept("blk.0.attn_q.weight", (8,), "llama") == "fewer than 2 dimensions"
    assert why_kept("blk.0.attn_q.bias", (8, 8), "llama") == "not named weight"
    assert "_norm.weight" in why_kept("blk.0.attn_q_norm.weight", (8, 8), "llama")
    assert why_kept("hc_x.weight", (8, 8), "llama") == ""
    assert "hc_" in why_kept("hc_x.weight", (8, 8), "glm5-next")


# --- names ---------------------------------------------------------------------------------------


def test_preset_names_in_any_case_aliases_and_numbers() -> None:
    for given in ("q4_k", "Q4_K_m", " q4_K ", "15"):
        assert preset(given).name == "Q4_K_M"
    assert (preset("q3_k").name, preset("Q5_k").name) == ("Q3_K_M", "Q5_K_M")
    assert (preset("0").name, preset("copy").copies, preset("mxfp4_moe").file_type) == (
        "F32", True, 38,
    )  # fmt: skip
    with pytest.raises(UnknownPresetError, match=r"'q4' is not .* known: F32, .*Q4_K"):
        preset("q4")
    with pytest.raises(UnknownPresetError):
        preset("4")


def test_every_preset_name_and_number_of_llama_quantize_is_known(llama_cpp_tree: Path) -> None:
    tool = (llama_cpp_tree / "tools/quantize/quantize.cpp").read_text()
    header = (llama_cpp_tree / "include/llama.h").read_text()
    numbers = dict(re.findall(r"(LLAMA_FTYPE_\w+) += (\d+),", header))
    listed = re.findall(r'\{ "(\w+)", *(LLAMA_FTYPE_\w+),', tool)
    assert len(listed) == 39
    for name, constant in listed:
        assert preset(name).file_type == int(numbers[constant]), name


def test_target_types() -> None:
    assert target_type("q4_k").name == "Q4_K"
    for name in ("Q8_1", "q8_k", "i32", "Q4_K_M", ""):
        with pytest.raises(UnknownPresetError, match="cannot be written"):
            target_type(name)


def test_guessed_file_type_is_the_first_to_reach_the_largest_count() -> None:
    def guess(*names: str) -> int:
        return guessed_file_type(by_name(name) for name in names) - 1024

    assert guess() == 0
    assert guess("Q4_K", "F32") == 15
    assert guess("Q4_K", "F32", "F32") == 0
    assert (guess("IQ2_S"), guess("NVFP4"), guess("MXFP4")) == (28, 39, 0)


def test_order_of_tensors() -> None:
    names = ["token_embd.weight", "blk.10.a", "blk.2.b", "blk.2.a", "output.weight", "Z", "blk.x"]
    assert sorted(names, key=order_key) == [
        "Z", "blk.x", "output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a",
    ]  # fmt: skip
    assert (layer_of("blk.12x"), layer_of("a.blk.1.")) == (12, -1)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("ATTN_V", "blk.0.attn_v.weight", "blk.0.attn_q.weight"),
        ("^blk", "blk.0.x", "a.blk.0.x"),
        (r"\.(2|3)\.", "blk.2.x", "blk.23.x"),
        (r"blk\.[[:digit:]]\.", "blk.7.x", "blk.17.x"),
        (r"[[:alpha:]_]+\.weight$", "attn_v.weight", "1.weight"),
        (r"\[x", "[x", "x"),
        ("a{2}", "aa", "a"),
        ("(?:ab)+?c", "ababc", "ac"),
    ],
)
def test_overrides_search_with_ecmascript_patterns(pattern: str, matching: str, other: str) -> None:
    override = parse_override(f"{pattern}=q6_k")
    assert override.type.name == "Q6_K"
    assert override.matches(matching)
    assert not override.matches(other)


@pytest.mark.parametrize(
    "text",
    [
        "attn_v", "=q8_0", "attn_v=", "attn_v=q9", "(=q8_0", "(?i)a=q8_0", "(?<n>a)=q8_0",
        "a++=q8_0", "a(?=b)=q8_0", r"a\Z=q8_0", "[[:odd:]]=q8_0",
    ],
)  # fmt: skip
def test_a_bad_override_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_override(text)


# --- facts ---------------------------------------------------------------------------------------


def facts_of(arch: str, **values: int | list[int]) -> ModelFacts:
    metadata = Metadata()
    metadata.set("general.architecture", arch, ValueType.STRING)
    for key, value in values.items():
        name = f"{arch}.{key.replace('__', '.')}"
        if isinstance(value, list):
            metadata.set(name, value, ValueType.ARRAY, ValueType.I32)
        else:
            metadata.set(name, value, ValueType.U32)
    return ModelFacts.of(metadata)


def test_facts_of_metadata() -> None:
    full = facts_of(
        "a", block_count=9, nextn_predict_layers=1, expert_count=4, attention__head_count=32,
        attention__head_count_kv=[8, 4],
    )  # fmt: skip
    assert full == ModelFacts("a", 9, 1, 4, 32, 8)
    assert full.queries_per_kv == 4
    assert facts_of("a", block_count=2, attention__head_count=6).queries_per_kv == 1
    assert facts_of("a", block_count=2).queries_per_kv == 0
    assert facts_of("nanbeige", block_count=2, num_loops=3).n_layer == 6
    assert facts_of("graniteswitch", block_count=2) == ModelFacts("graniteswitch", 3, 1)
    assert facts_of("clip").n_layer == 0
