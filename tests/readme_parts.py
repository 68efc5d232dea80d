"""Writes the parts of README.md that follow from the code: the table of types, the file tree.

python -m tests.readme_parts
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

from ggq import blocks
from ggq.blocks._float import FloatFrame

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def tree() -> str:
    """One line per tracked Python file, grouped by folder."""
    listed = subprocess.run(
        ["git", "ls-files", "ggq", "runtime", "convert", "tests"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    paths = sorted((Path(p) for p in listed if p.endswith(".py")), key=_order)
    lines: list[str] = []
    folder = None
    for path in paths:
        if path.parent != folder:
            folder = path.parent
            lines.append(f"{folder}/")
        lines.append(f"  {path.name:<24} {summary(ROOT / path)}")
    return "\n".join(lines) + "\n"


def _order(path: Path) -> tuple[int, str, str]:
    top = ("ggq", "runtime", "convert", "tests").index(path.parts[0])
    return top, str(path.parent), path.name


def summary(path: Path) -> str:
    """First line of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path} has no docstring"
    return text.splitlines()[0]


def types() -> str:
    """One row per tensor type."""
    lines = ["| type | number | weights a block | bytes | bits per weight | writes | fast |"]
    lines.append("|" + "---|" * 7)
    for block in blocks.all_types():
        is_float = block.weights == 1 and block.can_quantize
        fast = is_float or not isinstance(block.frame(), FloatFrame)
        marks = ["yes" if mark else "" for mark in (block.can_quantize, fast)]
        numbers = [block.id, block.weights, block.nbytes, f"{block.bits_per_weight:g}"]
        lines.append("| " + " | ".join(map(str, [block.name, *numbers, *marks])) + " |")
    return "\n".join(lines) + "\n"


def brought_up_to_date(readme: str) -> str:
    """README's text with its parts as they are now."""
    for name, part in (("types", types()), ("tree", f"```\n{tree()}```\n")):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = readme.split(begin)
        readme = before + begin + part + end + rest.split(end)[1]
    return readme


if __name__ == "__main__":
    README.write_text(brought_up_to_date(README.read_text(encoding="utf-8")), encoding="utf-8")
