"""One choice for each item, at the least total cost that a number of bytes allows.

A multiple-choice knapsack. A price per byte is lowered until the choices that minimize
cost + price * bytes just fit (Everett 1963, "Generalized Lagrange Multiplier Method"); what is left
of the budget is then spent on the upgrades that save most per byte. The few items so large that one
of their steps is a good part of the budget are tried in every choice instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from ggq.errors import UsageError

LARGE_SHARE = 0.02  # of the budget, between an item's smallest and largest choice
MOST_LARGE = 2


@dataclass(frozen=True)
class Choice:
    """One type a tensor may get: its name, what it takes and what it costs (nats of KL)."""

    type: str
    nbytes: int
    cost: float


Menu = Mapping[str, Sequence[Choice]]
Chosen = dict[str, Choice]


def total_bytes(chosen: Mapping[str, Choice]) -> int:
    """Bytes of all choices."""
    return sum(choice.nbytes for choice in chosen.values())


def total_cost(chosen: Mapping[str, Choice]) -> float:
    """Predicted cost of all choices."""
    return sum(choice.cost for choice in chosen.values())


def cheapest_within(menu: Menu, limit_bytes: int) -> Chosen:
    """The choices of least total cost in at most `limit_bytes`; tensor name -> choice.

    Raises UsageError when even the smallest choices need more.
    """
    needed = total_bytes(_at_price(menu, float("inf")))
    if needed > limit_bytes:
        raise UsageError(
            f"the tensors need at least {needed:,} bytes with the smallest types on offer, but"
            f" the size asked for leaves {limit_bytes:,}; ask for more"
        )
    large = _large(menu, limit_bytes)
    others = {name: choices for name, choices in menu.items() if name not in large}
    found = []
    for picked in product(*(menu[name] for name in large)):
        chosen = dict(zip(large, picked, strict=True))
        left = limit_bytes - total_bytes(chosen)
        if total_bytes(_at_price(others, float("inf"))) <= left:
            found.append(chosen | _by_price(others, left))
    best = min(found, key=total_cost)
    return {name: best[name] for name in menu}


def _large(menu: Menu, limit_bytes: int) -> list[str]:
    """Tensors that no price per byte can settle: one step of theirs leaves much unspent."""
    span = {
        name: max(c.nbytes for c in choices) - min(c.nbytes for c in choices)
        for name, choices in menu.items()
    }
    found = [name for name in menu if span[name] > LARGE_SHARE * limit_bytes]
    return sorted(found, key=lambda name: -span[name])[:MOST_LARGE]


def _by_price(menu: Menu, limit_bytes: int) -> Chosen:
    chosen = _first_that(menu, lambda found: total_bytes(found) <= limit_bytes)
    return _filled(menu, chosen or _at_price(menu, float("inf")), limit_bytes)


def smallest_within(menu: Menu, limit_cost: float) -> Chosen:
    """The choices of fewest bytes whose total cost is at most `limit_cost`, nearly.

    Raises UsageError when even the largest choices cost more.
    """
    best = _at_price(menu, 0.0)
    if total_cost(best) > limit_cost:
        raise UsageError(
            f"the KL divergence would be {total_cost(best):.4g} nats with the largest types on"
            f" offer, but {limit_cost:.4g} is asked for; ask for more"
        )
    prices = _prices(menu)
    low, high = 0, len(prices)  # the cost falls with the price: find the highest that will do
    while low < high:
        middle = (low + high) // 2
        if total_cost(_at_price(menu, prices[middle])) <= limit_cost:
            high = middle
        else:
            low = middle + 1
    chosen = _at_price(menu, prices[low]) if low < len(prices) else best
    return _trimmed(menu, chosen, limit_cost)


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that are best at some price, by bytes ascending: cost is convex along them."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.nbytes, one.cost)):
        if found and choice.cost >= found[-1].cost:
            continue
        while len(found) > 1 and _saving(found[-2], found[-1]) <= _saving(found[-1], choice):
            found.pop()
        found.append(choice)
    return found


def _saving(small: Choice, large: Choice) -> float:
    """Cost saved per byte on going from one choice to a larger one."""
    extra = large.nbytes - small.nbytes
    return (small.cost - large.cost) / extra if extra else float("inf")


def _prices(menu: Menu) -> list[float]:
    """The prices at which a choice changes, falling."""
    hulls = (hull(choices) for choices in menu.values())
    return sorted({_saving(*pair) for found in hulls for pair in pairwise(found)}, reverse=True)


def _at_price(menu: Menu, price: float) -> Chosen:
    chosen = {}
    for name, choices in menu.items():
        found = hull(choices)
        best = found[0]
        for small, large in pairwise(found):
            if _saving(small, large) >= price:
                best = large
        chosen[name] = best
    return chosen


def _first_that(menu: Menu, fits: Callable[[Chosen], bool]) -> Chosen | None:
    """The choices at the lowest price that fit."""
    prices = _prices(menu)
    low, high = 0, len(prices)
    while low < high:  # the bytes grow as the price falls
        middle = (low + high) // 2
        if fits(_at_price(menu, prices[middle])):
            low = middle + 1
        else:
            high = middle
    return _at_price(menu, prices[low - 1]) if low else None


def _filled(menu: Menu, chosen: Chosen, limit_bytes: int) -> Chosen:
    chosen = dict(chosen)
    left = limit_bytes - total_bytes(chosen)
    while True:
        steps = [
            (_saving(chosen[name], choice), name, choice)
            for name, choices in menu.items()
            for choice in choices
            if 0 < choice.nbytes - chosen[name].nbytes <= left and choice.cost < chosen[name].cost
        ]
        if not steps:
            return chosen
        _, name, choice = max(steps, key=lambda step: step[0])
        left -= choice.nbytes - chosen[name].nbytes
        chosen[name] = choice


def _trimmed(menu: Menu, chosen: Chosen, limit_cost: float) -> Chosen:
    chosen = dict(chosen)
    left = limit_cost - total_cost(chosen)
    while True:
        steps = [
            (_saving(choice, chosen[name]), name, choice)
            for name, choices in menu.items()
            for choice in choices
            if choice.nbytes < chosen[name].nbytes and choice.cost - chosen[name].cost <= left
        ]
        if not steps:
            return chosen
        _, name, choice = min(steps, key=lambda step: step[0])
        left -= choice.cost - chosen[name].cost
        chosen[name] = choice
