"""One option of every class, the cheapest that fits: the multiple-choice knapsack problem, exactly or with a bound.

The costs and sizes that are worth considering lie on few options of each class: Lagrange's relaxation gives a bound and
a price per byte, the price shows which options no better solution can have, and a list of states over the rest finds
the optimum (Dudzinski and Walukiewicz, "Exact methods for the knapsack problem and its generalizations", EJOR 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# States that are kept after a class. Beyond them the solution may miss the optimum, and the bound says by how much.
MOST_STATES = 1 << 16
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Option:
    """An option of a class: what it costs, and how much room it takes."""

    cost: float
    nbytes: int


@dataclass(frozen=True)
class Solution:
    """The cheapest options that fit.

    Attributes:
        picks: by class, the number of its option.
        cost: their sum.
        nbytes: their sum.
        bound: no solution costs less than this.
    """

    picks: tuple[int, ...]
    cost: float
    nbytes: int
    bound: float

    @property
    def gap(self) -> float:
        """How far the cost is from the bound at most, relative to it; 0 for the optimum."""
        return 0.0 if self.cost <= self.bound else (self.cost - self.bound) / max(abs(self.bound), 1e-300)


@dataclass(frozen=True, eq=False)
class _Class:
    """The options of a class that no other is better than in both: larger ones cost less.

    Attributes:
        sizes: int64, ascending.
        costs: float64, descending.
        numbers: which options they are.
    """

    sizes: _Ints
    costs: _Floats
    numbers: _Ints


def smallest(classes: Sequence[Sequence[Option]]) -> int:
    """The least room that a solution takes."""
    return sum(min(option.nbytes for option in options) for options in classes)


def solve(classes: Sequence[Sequence[Option]], room: int, most_states: int = MOST_STATES) -> Solution:
    """Choose one option of every class.

    Args:
        classes: the options of each, at least one; costs are finite.
        room: the most bytes.
        most_states: see :data:`MOST_STATES`.

    Raises:
        ValueError: the smallest options do not fit.
    """
    if smallest(classes) > room:
        raise ValueError(f"the smallest options take {smallest(classes)} bytes, more than {room}")
    fronts = [_front(options) for options in classes]
    price, picks = _greedy(fronts, room)
    best = sum(float(front.costs[pick]) for front, pick in zip(fronts, picks, strict=True))
    priced = [front.costs + price * front.sizes for front in fronts]
    bound = sum(float(row.min()) for row in priced) - price * room
    slack = max(best - bound, 0.0) + 1e-12 * abs(best)  # the bound is a sum that was rounded
    found, exact = _states(fronts, [row - row.min() for row in priced], room, slack, most_states)
    if found is not None:
        cost = sum(float(front.costs[pick]) for front, pick in zip(fronts, found, strict=True))
        if cost < best:
            best, picks = cost, found
    return Solution(
        picks=tuple(int(front.numbers[pick]) for front, pick in zip(fronts, picks, strict=True)),
        cost=best,
        nbytes=sum(int(front.sizes[pick]) for front, pick in zip(fronts, picks, strict=True)),
        bound=best if exact else min(bound, best),
    )


def _front(options: Sequence[Option]) -> _Class:
    order = sorted(range(len(options)), key=lambda number: (options[number].nbytes, options[number].cost, number))
    kept: list[int] = []
    for number in order:
        if not kept or options[number].cost < options[kept[-1]].cost:
            kept.append(number)
    return _Class(
        np.array([options[number].nbytes for number in kept], dtype=np.int64),
        np.array([options[number].cost for number in kept], dtype=np.float64),
        np.array(kept, dtype=np.int64),
    )


def _hull(front: _Class) -> list[int]:
    """The options on the lower convex hull of size and cost."""
    kept: list[int] = []
    for number in range(len(front.sizes)):
        while len(kept) > 1 and _gain(front, kept[-1], number) >= _gain(front, kept[-2], kept[-1]):
            kept.pop()
        kept.append(number)
    return kept


def _gain(front: _Class, smaller: int, larger: int) -> float:
    """What a byte more saves."""
    saved = float(front.costs[smaller] - front.costs[larger])
    return saved / int(front.sizes[larger] - front.sizes[smaller])


def _greedy(fronts: Sequence[_Class], room: int) -> tuple[float, list[int]]:
    """The price of a byte at which the relaxed problem's best solution fills the room, and a solution that fits.

    Starting with the smallest options, the steps along the hulls that save most per byte are taken while they fit; the
    price is what the first step that does not fit would save.
    """
    picks = [0] * len(fronts)
    left = room - sum(int(front.sizes[0]) for front in fronts)
    steps = [
        (-_gain(front, smaller, larger), number, smaller, larger)
        for number, front in enumerate(fronts)
        for hull in [_hull(front)]
        for smaller, larger in pairwise(hull)
    ]
    price = 0.0
    for gain, number, smaller, larger in sorted(steps):
        grown = int(fronts[number].sizes[larger] - fronts[number].sizes[smaller])
        if picks[number] == smaller and grown <= left:
            picks[number], left = larger, left - grown
        elif not price:
            price = -gain
    return price, picks


def _states(
    fronts: Sequence[_Class], reduced: Sequence[_Floats], room: int, slack: float, most: int
) -> tuple[list[int] | None, bool]:
    """The best solution that costs less than the bound and *slack*, None if there is none; and whether none is missed.

    A solution costs the bound, its reduced costs, and the price of the room it leaves: so one with reduced costs of
    more than the slack is no better than the one that is known.
    """
    useful = [np.flatnonzero(row <= slack) for row in reduced]
    order = sorted(range(len(fronts)), key=lambda number: (len(useful[number]), number))
    least = [int(fronts[number].sizes[useful[number]].min()) for number in order]
    exact, after = True, sum(least)
    sizes, costs, spent = np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(1)
    trail: list[tuple[_Ints, _Ints]] = []
    for number, own_least in zip(order, least, strict=True):
        after -= own_least
        front, use = fronts[number], useful[number]
        grown = (sizes[:, None] + front.sizes[use]).ravel()
        dearer = (costs[:, None] + front.costs[use]).ravel()
        paid = (spent[:, None] + reduced[number][use]).ravel()
        fits = np.flatnonzero((grown + after <= room) & (paid <= slack))
        fits = fits[np.lexsort((dearer[fits], grown[fits]))]
        if not len(fits):
            return None, exact
        before = np.concatenate(([np.inf], np.minimum.accumulate(dearer[fits])[:-1]))
        fits = fits[dearer[fits] < before]
        if len(fits) > most:
            exact = False
            fits = np.sort(fits[np.argsort(paid[fits], kind="stable")[:most]])
            fits = fits[np.argsort(grown[fits], kind="stable")]
        sizes, costs, spent = grown[fits], dearer[fits], paid[fits]
        trail.append((fits // len(use), use[fits % len(use)]))
    state, picks = int(np.argmin(costs)), [0] * len(fronts)
    for number, (parents, options) in zip(reversed(order), reversed(trail), strict=True):
        picks[number], state = int(options[state]), int(parents[state])
    return picks, exact
