"""Typed reading of config.json: every value is checked for type and range where it is read."""

from __future__ import annotations

from typing import Any

from ggq.errors import UnsupportedModelError

LARGEST = 2**31 - 1
TINIEST, HUGEST = 1e-37, 1e38


class Config:
    """config.json of a text model over the defaults of its class in transformers.

    An explicit null counts as absent.
    """

    def __init__(self, config: dict[str, Any], defaults: dict[str, Any]) -> None:
        given = {key: value for key, value in config.items() if value is not None}
        self._values = {**defaults, **given}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The raw value, or `default`."""
        return self._values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number in 1..2^31-1."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            raise wrong(key, value, f"a whole number in 1..{LARGEST}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        return positive(key, self._values.get(key, default))

    def only(self, key: str, *accepted: Any) -> None:
        """Refuse the model unless the value is absent or one of `accepted`."""
        value = self._values.get(key)
        if value is not None and value not in accepted:
            wanted = " or ".join(repr(one) for one in accepted) or "no such key"
            raise wrong(key, value, f"{wanted}: nothing else is implemented")

    def rope(self, default_base: float, layers: str | None = None) -> dict[str, Any]:
        """The rope parameters in one flat dict with `rope_type` and `rope_theta`.

        Takes the old form (rope_theta and rope_scaling) and the new one (rope_parameters, which
        may hold one dict for each kind of layer; `layers` picks one of them).
        """
        found = self._values.get("rope_scaling") or self._values.get("rope_parameters") or {}
        if not isinstance(found, dict):
            raise wrong("rope_parameters", found, "an object")
        if layers in found:
            found = found[layers] or {}
        rope = {key: value for key, value in found.items() if value is not None}
        rope["rope_type"] = str(rope.get("rope_type", rope.get("type", "default")))
        base = rope.get("rope_theta", self._values.get("rope_theta", default_base))
        rope["rope_theta"] = positive("rope_theta", base)
        return rope


def positive(key: str, value: Any) -> float:
    """`value` as a number above zero that an f32 can hold. Raises UnsupportedModelError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and TINIEST < value < HUGEST:
        return float(value)
    raise wrong(key, value, "a finite number above 0")


def wrong(key: str, value: Any, wanted: str) -> UnsupportedModelError:
    """The error for a config value that cannot be used."""
    found = "absent" if value is None else repr(value)[:80]
    return UnsupportedModelError(f"config.json: {key} is {found}, wanted {wanted}")
