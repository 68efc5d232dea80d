"""Whether text is run through a model: what speaks against it, and how long it would take."""

from __future__ import annotations

from collections.abc import Callable

from ggq.convert.mixtures.plan import Plan
from ggq.convert.sources.tensor_source import Source
from ggq.convert.ways.estimate import estimate_seconds
from ggq.convert.ways.settings import Settings
from ggq.errors import GGQError

Say = Callable[[str], None]

LONG_SECONDS = 1800.0


def cannot_run(source: Source) -> str | None:
    """Why no text can be run through a model, None where it can."""
    from ggq.runtime.arch import by_name
    from ggq.runtime.tokenizer import from_metadata

    try:
        by_name(source.metadata.require("general.architecture", str))
        from_metadata(source.metadata)
    except GGQError as error:
        return f"no text can be run through this model ({error})"
    return None


def too_long(
    wishes: Settings, source: Source, plan: Plan, *, effort_is_given: bool, say: Say
) -> str | None:
    """That it would take more than half an hour, without --effort; else None, and says how long."""
    seconds = estimate_seconds(wishes, source, plan)
    if not effort_is_given and seconds > LONG_SECONDS:
        return f"calibration would take about {_duration(seconds)}"
    say(f"this will take about {_duration(seconds)}")
    return None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
