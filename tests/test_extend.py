"""A new block type is one file: dropped into a copy of the tree it is listed, decodes, multiplies.

tests/test_extend_model.py does the same for a model of toy parts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tree_copy import ROOT, copy_tree, run_in

# Layouts no other type has: one per way of describing a family.
SMALL = '''
"""TOY3: 32 three-bit codes in bytes of their own, one scale."""
from ggq.blocks._base import fields
from ggq.blocks._small import SmallBlock


class TOY3(SmallBlock):
    """w = d * (q - 4)"""

    id = 201
    layout = fields(("qs", "u1", (32,)), ("d", "<f2"))
    parts = 1
    offset = 4

    def codes(self, blocks):
        return [blocks.bytes("qs") & 7]
'''

SUPER = '''
"""TOY4: 256 four-bit codes in 8 sub-blocks with scales of a byte."""
from ggq.blocks._base import fields
from ggq.blocks._small import high_nibbles, low_nibbles
from ggq.blocks._super import SuperBlock
from ggq.jit.lang import i16


class TOY4(SuperBlock):
    """w = d * sc * q"""

    id = 202
    layout = fields(("qs", "u1", (128,)), ("sc", "u1", (8,)), ("d", "<f2"))
    group = 32

    def codes(self, blocks, width):
        for at in range(0, 128, width):
            qs = blocks.bytes("qs", at, width)
            starts = list(range(at, at + width, 16))
            yield starts, low_nibbles(qs)
            yield [s + 128 for s in starts], high_nibbles(qs)

    def scales(self, blocks):
        return (blocks.bytes("sc") & 63).to(i16)
'''

PLAIN = '''
"""TOY2: pairs of bytes and a common divisor; nothing but how to decode them."""
from ggq.blocks._base import BlockType, fields
from ggq.jit.lang import f32, i8, load


class TOY2(BlockType):
    """w = q / 16"""

    id = 203
    weights = 16
    layout = fields(("qs", "i1", (16,)))

    def singles(self, address, step):
        yield 0, load(i8 * 16, address).to(f32) * 0.0625
'''

CHECK = """
import json, sys
import numpy as np
from ggq import blocks
from tests.block_data import legal_rows
from tests.block_laws import check_products

formulas = {
    "TOY3": lambda b: b["d"].astype("f4")[:, None] * ((b["qs"] & 7).astype("f4") - 4),
    "TOY4": lambda b: (
        (b["d"].astype("f4")[:, None] * (b["sc"] & 63)).astype("f4").repeat(32, axis=1)
        * np.concatenate([b["qs"] & 15, b["qs"] >> 4], axis=1)
    ),
    "TOY2": lambda b: b["qs"] / np.float32(16),
}
rng = np.random.default_rng(0)
for name, formula in formulas.items():
    family = blocks.by_name(name)
    assert family in blocks.all_types() and blocks.by_id(family.id) is family
    rows = legal_rows(family, 5, family.weights, rng)
    wanted = formula(rows.view(family.layout)[:, 0]).astype(np.float32)
    assert np.array_equal(family.dequantize(rows), wanted), name
    for count in (1, 2, 3, 5, 8):
        check_products(family, count, 9, rng)
print(json.dumps([t.name for t in blocks.all_types()]))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree with the toys in it."""
    copy = copy_tree(tmp_path_factory.mktemp("tree"))
    for name, source in (("toy3", SMALL), ("toy4", SUPER), ("toy2", PLAIN)):
        (copy / f"ggq/blocks/{name}.py").write_text(source)
    (copy / "tests").symlink_to(ROOT / "tests")
    return copy


def test_toy_blocks_are_listed_decode_and_multiply(tree: Path) -> None:
    listed = json.loads(run_in(tree, CHECK))
    assert {"TOY2", "TOY3", "TOY4", "Q4_0"} <= set(listed)


def test_a_family_that_fails_to_import_is_an_error_not_an_absence(tree: Path) -> None:
    broken = tree / "ggq/blocks/broken.py"
    broken.write_text("import no_such_module")
    code = """
from ggq import blocks
try: blocks.all_types()
except ModuleNotFoundError as error: print(error)
"""
    try:
        assert "no_such_module" in run_in(tree, code)
    finally:
        broken.unlink()
