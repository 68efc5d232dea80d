"""The types that --alloc fisher weighs for each tensor."""

from __future__ import annotations

from ggq.blocks import BlockType, by_name
from ggq.convert.alloc.candidates import LADDER, LOW_LADDER, SMALL_LADDER, candidates
from ggq.convert.mixtures.plan import Plan, make_plan
from ggq.convert.mixtures.presets import preset
from ggq.convert.mixtures.recipe import Options
from ggq.metadata import Metadata
from ggq.spec import TensorInfo, ValueType

HEAD, UP, ODD = "token_embd.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"


def plan_of(preset_name: str, vocabulary: int, token_embedding: BlockType | None = None) -> Plan:
    metadata = Metadata()
    metadata.set("general.architecture", "llama", ValueType.STRING)
    metadata.set("llama.block_count", 1, ValueType.U32)
    shapes = {
        HEAD: (vocabulary, 256),
        UP: (1024, 256),
        ODD: (256, 1056),
        "output_norm.weight": (256,),
    }
    tensors = [TensorInfo(name, shape, by_name("F32")) for name, shape in shapes.items()]
    return make_plan(
        metadata, tensors, preset(preset_name), Options(token_embedding=token_embedding)
    )


def names_of(
    plan: Plan, limit: int | None = None, *, few_of_head: bool = False
) -> dict[str, list[str]]:
    found = candidates(plan, limit or plan.total_bytes, HEAD, few_of_head=few_of_head)
    return {name: [type.name for type in types] for name, types in found.items()}


def test_rows_that_are_no_multiple_of_256_get_types_of_32() -> None:
    assert set(names_of(plan_of("Q4_K_M", 512))[ODD]) == set(SMALL_LADDER)


def test_vectors_and_what_the_user_settled_keep_their_type() -> None:
    found = names_of(plan_of("Q4_K_M", 512, token_embedding=by_name("Q6_K")))
    assert found["output_norm.weight"] == ["F32"]
    assert found[HEAD] == ["Q6_K"]


def test_codebook_types_compete_where_k_quants_end() -> None:
    assert names_of(plan_of("Q4_K_M", 512))[UP] == [*LADDER]


def test_a_large_head_does_not_hide_that_the_rest_is_small() -> None:
    plan = plan_of("Q4_K_M", 65536)
    head = next(tensor for tensor in plan.tensors if tensor.name == HEAD)
    rest = 3 * (plan.n_weights - head.n_weights) // 8  # three bits
    assert 8 * (head.bytes + rest) / plan.n_weights > 6
    assert names_of(plan, head.bytes + rest)[UP] == [*LOW_LADDER, *LADDER]
    assert names_of(plan, 1)[UP] == [*LOW_LADDER, *LADDER]


def test_few_types_of_the_head_are_tried_and_the_planned_one() -> None:
    plan = plan_of("Q4_K_M", 512)
    found = names_of(plan, plan.n_weights * 3 // 8, few_of_head=True)[HEAD]
    assert found[-1] == "Q6_K"
    assert "Q8_0" not in found
    assert "Q3_K" in found
    assert names_of(plan, plan.n_weights * 3 // 8)[HEAD][-1] == "Q8_0"
