"""Choices within a number of bytes, beside every combination there is."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggq.convert.alloc.knapsack import (
    Choice,
    cheapest_within,
    hull,
    smallest_within,
    total_bytes,
    total_cost,
)
from ggq.errors import UsageError

CHOICES = st.lists(
    st.builds(Choice, st.just("x"), st.integers(1, 50), st.floats(0, 10, width=32)),
    min_size=1,
    max_size=4,
)
MENUS = st.dictionaries(st.sampled_from("abcde"), CHOICES, min_size=1, max_size=5)


def all_of(menu: dict[str, list[Choice]]) -> list[tuple[int, float]]:
    """(bytes, cost) of every combination."""
    return [
        (sum(c.nbytes for c in one), sum(c.cost for c in one)) for one in product(*menu.values())
    ]


def largest_step(menu: dict[str, list[Choice]]) -> float:
    """Most that one choice can change: how far from the best a choice by price may end."""
    return max(max(c.cost for c in m) - min(c.cost for c in m) for m in menu.values())


@given(menu=MENUS, limit=st.integers(1, 250))
def test_cheapest_is_near_the_best_and_fits(menu: dict[str, list[Choice]], limit: int) -> None:
    costs = [cost for nbytes, cost in all_of(menu) if nbytes <= limit]
    if not costs:
        with pytest.raises(UsageError, match="at least"):
            cheapest_within(menu, limit)
        return
    chosen = cheapest_within(menu, limit)
    assert chosen.keys() == menu.keys()
    assert all(chosen[name] in menu[name] for name in menu)
    assert total_bytes(chosen) <= limit
    assert min(costs) - 1e-6 <= total_cost(chosen) <= min(costs) + largest_step(menu) + 1e-6


@given(menu=MENUS, limit=st.floats(0, 60))
def test_smallest_is_near_the_best_and_good(menu: dict[str, list[Choice]], limit: float) -> None:
    sizes = [nbytes for nbytes, cost in all_of(menu) if cost <= limit]
    least = sum(min(c.cost for c in choices) for choices in menu.values())
    if least > limit:
        with pytest.raises(UsageError, match="nats"):
            smallest_within(menu, limit)
        return
    chosen = smallest_within(menu, limit)
    assert total_cost(chosen) <= limit + 1e-9
    assert total_bytes(chosen) <= min(sizes) + max(c.nbytes for m in menu.values() for c in m)


def test_with_room_for_everything_the_best_is_taken() -> None:
    menu = {name: [Choice("s", 1, 5.0), Choice("l", 9, 1.0)] for name in "ab"}
    assert {c.type for c in cheapest_within(menu, 18).values()} == {"l"}
    assert sorted(c.type for c in cheapest_within(menu, 10).values()) == ["l", "s"]


def test_one_item_as_large_as_all_others_is_settled_first() -> None:
    large = [Choice("s", 100, 9.0), Choice("l", 150, 0.0)]
    small = [Choice("s", 1, 2.0), Choice("l", 11, 0.0)]
    menu = {"large": large} | {f"small{k}": small for k in range(5)}
    # By price alone the small ones are raised first, and then the large one does not fit any more.
    chosen = cheapest_within(menu, 165)
    assert chosen["large"].type == "l"
    assert total_cost(chosen) == 8.0


@given(choices=CHOICES)
def test_hull_is_convex_and_holds_the_extremes(choices: list[Choice]) -> None:
    found = hull(choices)
    assert found[0].nbytes == min(c.nbytes for c in choices)
    assert found[-1].cost == min(c.cost for c in choices)
    steps = [(b.cost - a.cost) / (b.nbytes - a.nbytes) for a, b in pairwise(found)]
    assert all(a < b for a, b in pairwise(steps))
    assert all(step < 0 for step in steps)
