"""Sizes as people write them."""

from __future__ import annotations

import argparse

import pytest

from ggq.convert.alloc.budget import max_kld, target_bpw, target_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4200000000", 4_200_000_000),
        ("4.2GB", 4_200_000_000),
        ("4.2 gb", 4_200_000_000),
        ("4.2GiB", 4_509_715_660),
        ("100MB", 100_000_000),
        ("100MiB", 104_857_600),
        ("12KB", 12_000),
        ("1TiB", 1 << 40),
        ("7B", 7),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert target_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "0.0001KB", "4,2GB", "4GBB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"4\.2GiB"):
        target_size(text)


def test_bits_and_nats() -> None:
    assert target_bpw("4.5") == 4.5
    assert max_kld("0.02") == 0.02
    for text in ("0.5", "33", "x", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="bits per weight"):
            target_bpw(text)
    for text in ("0", "-1", "inf", "nan", "y"):
        with pytest.raises(argparse.ArgumentTypeError, match="KL divergence"):
            max_kld(text)
