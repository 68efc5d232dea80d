"""ggq-convert run in the process of a test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggq.convert import cli


class Tool:
    """Runs the tool in this process; keeps what it said."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture
        self.stdout = self.stderr = ""

    def __call__(self, *arguments: object) -> int:
        self._patch.setattr("sys.argv", ["ggq-convert", *map(str, arguments)])
        try:
            code = cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        self.stdout, self.stderr = self._capture.readouterr()
        assert "Traceback" not in self.stderr
        return code

    @property
    def error(self) -> str:
        """The one error line."""
        (line,) = [one for one in self.stderr.splitlines() if ": error: " in one]
        return line

    def plan(self) -> dict[str, dict[str, Any]]:
        """Name -> entry of the JSON plan."""
        return {tensor["name"]: tensor for tensor in json.loads(self.stdout)["tensors"]}
