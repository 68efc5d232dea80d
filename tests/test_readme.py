"""What README.md says of the files is true."""

from __future__ import annotations

import re

from tests.readme_parts import README, ROOT, brought_up_to_date


def test_types_and_tree_are_those_of_the_code() -> None:
    text = README.read_text(encoding="utf-8")
    assert brought_up_to_date(text) == text, "run: python -m tests.readme_parts"


def test_every_flag_named_exists() -> None:
    """Flags in README's examples are flags of the tools."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("convert", "runtime", "ggq")
        for path in (ROOT / folder).rglob("*.py")
    )
    shown = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    own = [line for block in shown for line in block.splitlines() if line.startswith("ggq")]
    for flag in {f for line in own for f in re.findall(r"(?<=\s)--?[a-z][a-z-]+", line)}:
        assert f'"{flag}"' in sources, flag
