"""A new block type, architecture and tokenizer are one file each: nothing else changes.

The three toys are dropped into a copy of the tree, which then lists, converts and runs them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import ggq
from ggq.spec import ValueType
from tests.models import TINY
from tests.tree_copy import copy_tree, run_in

BLOCK = '''
"""TOY8: Q8_0 under another number."""
from ggq.blocks._base import fields
from ggq.blocks.q8 import Q8_0


class TOY8(Q8_0):
    """w = d * q"""

    id = 200
    layout = fields(("d", "<f2"), ("qs", "i1", (32,)))
'''

ARCH = '''
"""A Llama of another name."""
from ggq.runtime.arch._decoder import decoder_tensors
from ggq.runtime.arch._hparams import decoder_hparams
from ggq.runtime.arch._base import HParams
from ggq.runtime.arch.llama import Llama


class Toy(Llama):
    """Toy."""

    name = "toy"
    hf = ("ToyForCausalLM",)

    def metadata(self, config):
        return [(key.replace("llama.", "toy."), *rest) for key, *rest in super().metadata(config)]

    def hparams(self, metadata):
        return HParams(**decoder_hparams(metadata, "toy"))
'''

TOKENIZER = '''
"""Byte-level BPE under another name."""
from ggq.runtime.tokenizer.bpe import Bpe


class ToyTokenizer(Bpe):
    """toy."""

    models = ("toy",)
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree with the toys in it."""
    copy = copy_tree(tmp_path_factory.mktemp("tree"))
    (copy / "ggq/blocks/toy8.py").write_text(BLOCK)
    (copy / "runtime/arch/toy.py").write_text(ARCH)
    (copy / "runtime/tokenizer/toy.py").write_text(TOKENIZER)
    return copy


def test_toys_are_listed(tree: Path) -> None:
    code = (
        "from ggq import blocks; from ggq.runtime import arch, tokenizer\n"
        "print([b.name for b in blocks.all_types()], [a.name for a in arch.all_archs()],"
        " tokenizer.all_models())"
    )
    listed = run_in(tree, code)
    for name in ("'TOY8'", "'toy'"):
        assert name in listed
    assert listed.count("'toy'") == 2


def test_toys_convert_and_run(tree: Path, tmp_path: Path) -> None:
    source = TINY["llama"].write_gguf(tmp_path / "llama.gguf")
    toy = tmp_path / "toy.gguf"
    with ggq.open(source) as reader:
        metadata = reader.metadata.copy()
        for key in list(metadata):
            if key.startswith("llama."):
                kind, value = metadata.type(key), metadata[key]
                metadata.pop(key)
                metadata.set(key.replace("llama.", "toy."), value, kind)
        metadata.set("general.architecture", "toy", ValueType.STRING)
        metadata.set("tokenizer.ggml.model", "toy", ValueType.STRING)
        infos = list(reader.tensors.values())
        with ggq.Writer(toy, metadata, infos) as writer:
            for info in infos:
                writer.write(info.name, info.data)
    out = tmp_path / "out.gguf"
    convert = "import sys; from ggq.convert.cli import main; sys.exit(main())"
    run_in(tree, convert, str(toy), str(out), "--type", "q8_0", "--tensor-type", "ffn=TOY8")
    show = "import sys; from ggq.cli import main; sys.exit(main())"
    assert "TOY8" in run_in(tree, show, "info", str(out))
    answer = "import sys; from ggq.runtime.cli import main; sys.exit(main())"
    text = run_in(
        tree, answer, str(out), "-p", "ab", "-no-cnv", "-n", "4", "-t", "1", "--temp", "0"
    )
    assert text.endswith("\n")
    scored = "import ggq, sys; print(ggq.load(sys.argv[1], n_threads=1).logits([1, 2, 3]).shape)"
    assert run_in(tree, scored, str(out)).strip().startswith("(3,")


def test_two_claims_to_one_number_are_an_error(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "ggq/blocks/toy9.py").write_text(BLOCK.replace("TOY8", "TOY9"))
    code = (
        "from ggq import blocks\n"
        "try: blocks.all_types()\n"
        "except RuntimeError as error: print(error)"
    )
    assert "both claim 200" in run_in(copy, code)
