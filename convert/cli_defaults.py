"""What ggq-convert does where its options leave it open."""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple

CALIBRATED_METHODS = ("imatrix", "gptq", "guided", "yaqa")
BEST_WITHOUT_DATA = "hqq"
BEST_WITH_MATRIX = "imatrix"
# Presets, by name and number, whose files are as close as they get without any data.
FINE = ("F32", "F16", "BF16", "COPY", "Q8_0", "0", "1", "32", "7")
MIXTURE = re.compile(r"I?Q\d_(K|X*S|M).*", re.IGNORECASE)  # others name the type that is wanted


class Combination(NamedTuple):
    """Values of --method, --alloc and --transform."""

    method: str
    alloc: str
    transform: str


PLAIN = Combination("llama", "preset", "none")
# Of a run that names none of the three and has nothing that speaks against it.
DEFAULT = Combination("yaqa", "fisher", "awq")
DEFAULT_TYPE = "q4_k"


def combination(args: argparse.Namespace) -> Combination:
    """What is asked for, and for the rest what suits it best."""
    if args.compat:
        return PLAIN
    is_coarse = (args.type or DEFAULT_TYPE).upper() not in FINE
    open_method = DEFAULT.method if is_coarse else PLAIN.method
    if open_method in CALIBRATED_METHODS and args.imatrix:
        open_method = BEST_WITH_MATRIX
    if args.no_calib and is_coarse and not args.imatrix:
        open_method = BEST_WITHOUT_DATA
    nothing_said = (args.method, args.alloc, args.transform) == (None, None, None)
    free = nothing_said and is_coarse and not (args.no_calib or args.imatrix)
    mixes = free and not args.pure and MIXTURE.fullmatch(args.type or DEFAULT_TYPE)
    return Combination(
        args.method or open_method,
        args.alloc or ("fisher" if budgets(args) else DEFAULT.alloc if mixes else PLAIN.alloc),
        args.transform or (DEFAULT.transform if free else PLAIN.transform),
    )


def budgets(args: argparse.Namespace) -> list[str]:
    """The options among --target-size, --target-bpw and --max-kld that were given."""
    given = {
        "--target-size": args.target_size,
        "--target-bpw": args.target_bpw,
        "--max-kld": args.max_kld,
    }
    return [option for option, value in given.items() if value is not None]


def needs_calibration(args: argparse.Namespace) -> bool:
    """Whether text must be run through the model."""
    chosen = combination(args)
    by_method = chosen.method in CALIBRATED_METHODS
    return bool(
        (by_method and not (chosen.method == "imatrix" and args.imatrix))
        or chosen.alloc == "fisher"
        or chosen.transform != "none"
        or asks_for_text(args)
    ) and not (args.no_calib or args.compat)


def asks_for_calibration(args: argparse.Namespace) -> bool:
    """Whether an option says so, and not only what is done by default."""
    named = args.method in CALIBRATED_METHODS or args.transform not in (None, "none")
    return bool(named or insists_on_calibration(args) or asks_for_text(args))


def insists_on_calibration(args: argparse.Namespace) -> bool:
    """Whether nothing else gives what is asked for."""
    return bool(args.alloc == "fisher" or budgets(args) or args.save_imatrix)


def asks_for_text(args: argparse.Namespace) -> bool:
    """Whether an option is about the text itself."""
    return bool(args.save_imatrix or args.calib or args.calib_tokens)
