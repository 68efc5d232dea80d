"""`ggq info`: what it says, without a compiler, and with no way for a file to the terminal."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq.cli import main
from tests import crafted
from tests.crafted import F32, I32, STRING, U32, array, gguf, info, pair, string, u32

ROOT = Path(__file__).parents[1]

EVIL = [
    "\x1b[2J", "\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x1b\\", "\x1b[31mred", "\x9b2J", "\x90q\x9c",
    "a\rb", "a\nb", "a\tb", "\x08\x08", "\x7f", "\u202eevil", "\u2066x", "\u2028", "\ufeff",
]  # fmt: skip


def write(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    return str(path)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["info", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=60,
        env=os.environ | variables,
    )


def test_a_real_file_as_json(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, str(smollm2))
    assert found["files"] == [str(smollm2)]
    assert (found["bytes"], found["version"], found["alignment"]) == (98_362_432, 3, 32)
    assert found["metadata"]["llama.block_count"] == {"type": "U32", "value": 30}
    tokens = found["metadata"]["tokenizer.ggml.tokens"]
    assert (tokens["count"], tokens["head"][0]) == (49152, "<|endoftext|>")
    assert found["tokenizer"]["model"] == "gpt2"
    assert found["tokenizer"]["special"]["eos"] == {"id": 2, "text": "<|im_end|>"}
    assert found["tokenizer"]["token_types"] == {"normal": 49135, "control": 17}
    assert found["tokenizer"]["chat_template"] is True
    assert found["tensors"][0] == {
        "name": "token_embd.weight",
        "shape": [49152, 576],
        "type": "Q8_0",
        "bytes": 49152 * 18 * 34,
        "offset": 1_785_664,
        "file": str(smollm2),
    }
    types = {entry["type"]: entry for entry in found["types"]}
    assert {name: entry["tensors"] for name, entry in types.items()} == {
        "Q4_1": 210, "Q8_0": 1, "F32": 61
    }  # fmt: skip
    assert found["weights"] == sum(entry["weights"] for entry in types.values()) == 134_515_008
    assert found["bits_per_weight"] == pytest.approx(
        (5 * types["Q4_1"]["weights"] + 8.5 * types["Q8_0"]["weights"] + 32 * 35_136) / 134_515_008
    )


def test_a_real_file_as_a_table(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(smollm2)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "134,515,008 weights, 5.744 bits per weight".split() == lines[1][-6:]
    assert ["llama.attention.layer_norm_rms_epsilon", "F32", "1e-05"] in lines
    assert ["Q4_1", "210", "106,168,320", "66,355,200", "68.7", "%"] in lines
    assert ["blk.0.ffn_down.weight", "Q4_1", "576", "x", "1536", "552,960"] in lines
    assert ["bos", "1", "<|im_start|>"] in lines


def test_full_arrays_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = pair(b"n", 9, array(I32, 20, b"".join(map(u32, range(20)))))
    texts = pair(b"t", 9, array(STRING, 9, string(b"x") * 9))
    path = write(tmp_path / "m.gguf", gguf([numbers, texts]))
    short, full = report(capsys, path)["metadata"], report(capsys, path, "--full")["metadata"]
    assert (short["n"]["head"], short["t"]["head"]) == (list(range(8)), ["x"] * 8)
    assert (full["n"]["value"], full["t"]["value"]) == (list(range(20)), ["x"] * 9)


def test_numbers_json_cannot_hold_become_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infinite = struct.pack("<f", float("inf"))
    pairs = [pair(b"a", F32, infinite), pair(b"b", 9, array(F32, 1, infinite))]
    metadata = report(capsys, write(tmp_path / "m.gguf", gguf(pairs)))["metadata"]
    assert (metadata["a"]["value"], metadata["b"]["value"]) == ("inf", ["inf"])


def test_a_tokenizer_that_lies_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = b"tokenizer.ggml."
    pairs = [
        pair(prefix + b"tokens", U32, u32(7)),
        pair(prefix + b"merges", STRING, string(b"x")),
        pair(prefix + b"model", U32, u32(1)),
        pair(prefix + b"token_type", 9, array(I32, 2, u32(-5) + u32(1))),
        pair(prefix + b"bos_token_id", U32, u32(99)),
        pair(prefix + b"eos_token_id", STRING, string(b"</s>")),
    ]
    path = write(tmp_path / "m.gguf", gguf(pairs))
    tokenizer = report(capsys, path)["tokenizer"]
    assert tokenizer["special"] == {"bos": {"id": 99, "text": None}}
    assert tokenizer["token_types"] == {"normal": 1}
    assert main(["info", path]) == 0


def test_a_file_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.gguf", gguf())
    found = report(capsys, path)
    assert found["bits_per_weight"] is None
    assert found["tokenizer"] is None
    assert main(["info", path]) == 0
    assert "no weights" in capsys.readouterr().out


def test_header_only_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.gguf", gguf([], [info()]))
    assert main(["info", path]) == 3
    capsys.readouterr()
    assert report(capsys, path, "--header-only")["tensor_bytes"] == 128


@pytest.mark.parametrize("text", EVIL)
def test_a_file_cannot_write_to_the_terminal(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = text.encode()
    tokens = pair(b"tokenizer.ggml.tokens", 9, array(STRING, 1, string(raw)))
    pairs = [
        tokens,
        pair(b"tokenizer.ggml.model", STRING, string(raw)),
        pair(raw, STRING, string(raw + b"\xff")),
        pair(b"tokenizer.ggml." + raw + b"_token_id", U32, u32(0)),
        pair(b"tokenizer.ggml.flag" + raw, crafted.BOOL, b"\1"),
    ]
    path = write(tmp_path / "m.gguf", gguf(pairs, [info(raw)], bytes(128)))
    for options in ([], ["--json"]):
        assert main(["info", path, *options]) == 0
        out = capsys.readouterr().out
        assert all(c.isprintable() or c == "\n" for c in out)
    assert main(["info", write(tmp_path / "bad.gguf", gguf([*pairs, tokens]))]) == 3
    assert main(["info", write(tmp_path / "bad.gguf", gguf([pair(raw, 99, b"")]))]) == 3
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 2
    assert all(c.isprintable() or c == "\n" for c in error)


def test_any_locale_gets_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", gguf([pair(b"name", STRING, string("größe".encode()))]))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = python("-m", "ggq.cli", "info", path, **ascii_only)
    assert done.returncode == 0, done.stderr
    assert "größe" in done.stdout


NO_COMPILER = """
import sys
{body}
heavy = {{"numba", "llvmlite", "tokenizers", "sentencepiece", "huggingface_hub", "tqdm"}}
found = heavy & set(sys.modules)
assert not found, found
"""


@pytest.mark.parametrize(
    "body",
    [
        "import ggq",
        "import ggq; ggq.open, ggq.Reader, ggq.Writer, ggq.Metadata, ggq.ValueType, ggq.errors",
        "from ggq.cli import main; assert main(['info', sys.argv[1]]) == 0",
        "from ggq.cli import main; assert main(['info', '--json', sys.argv[1]]) == 0",
    ],
)
def test_nothing_heavy_is_imported(body: str, smollm2: Path) -> None:
    done = python("-c", NO_COMPILER.format(body=body), str(smollm2))
    assert done.returncode == 0, done.stderr
