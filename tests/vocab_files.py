"""Tokenizer files of a model directory: written for a test, and read into metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ggq.metadata import Metadata

LLAMA = {"architectures": ["LlamaForCausalLM"]}
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's 1234567 times.",
    "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.",
    "def quick(fox):\n    return [fox for fox in range(10)]  # the lazy dog\n\n",
    "Größe, façade, naïve, Привет мир, こんにちは世界, 你好世界 — “quotes” … and emoji 🦊🐶",
] * 4
TEXTS = [*CORPUS[:4], "  two  spaces\n\n\nI'LL don't 12 345 6789", "<s>x</s>", "▁▁ marks ▁x", ""]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


def loaded(entries: list[tuple[Any, ...]]) -> Metadata:
    metadata = Metadata("converted")
    for key, kind, value, *item_type in entries:
        metadata.set(key, value, kind, *item_type)
    return metadata


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def listed(metadata: Metadata, key: str) -> list[Any]:
    values: list[Any] = metadata[f"tokenizer.ggml.{key}"].tolist()
    return values
