"""The choice of one option per class, against every combination."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.choose.knapsack import Option, smallest, solve

OPTIONS = st.builds(Option, cost=st.floats(0, 100).map(lambda cost: round(cost, 3)), nbytes=st.integers(0, 40))
CLASSES = st.lists(st.lists(OPTIONS, min_size=1, max_size=5), min_size=1, max_size=5)


def cheapest(classes: list[list[Option]], room: int) -> float:
    combinations = itertools.product(*classes)
    return min(sum(one.cost for one in row) for row in combinations if sum(one.nbytes for one in row) <= room)


@given(CLASSES, st.integers(0, 120))
def test_the_solution_is_the_cheapest_of_all(classes: list[list[Option]], spare: int) -> None:
    room = smallest(classes) + spare
    found = solve(classes, room)
    picked = [options[pick] for options, pick in zip(classes, found.picks, strict=True)]
    assert found.nbytes == sum(one.nbytes for one in picked) <= room
    assert found.cost == pytest.approx(sum(one.cost for one in picked))
    assert found.cost == pytest.approx(cheapest(classes, room), abs=1e-9)
    assert found.gap == 0


@given(CLASSES, st.integers(0, 120))
def test_with_few_states_the_bound_holds(classes: list[list[Option]], spare: int) -> None:
    room = smallest(classes) + spare
    found = solve(classes, room, most_states=1)
    assert found.nbytes <= room
    assert found.bound <= cheapest(classes, room) + 1e-6 <= found.cost + 2e-6
    assert found.gap >= 0


def test_a_large_problem_is_solved_within_a_thousandth() -> None:
    bits = (2.0625, 2.5625, 3.4375, 4.25, 4.5, 5.5, 6.5625, 8.5)
    classes = [
        [Option((1 + number * 37 % 101) * count * 4**-width, int(count * width / 8)) for width in bits]
        for number in range(300)
        for count in [(1 + number % 3) * 65536]
    ]
    room = int(smallest(classes) * 2.1)
    found = solve(classes, room)
    assert found.gap < 1e-3
    assert room - found.nbytes < 65536


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="take 5 bytes, more than 4"):
        solve([[Option(1.0, 2)], [Option(1.0, 3), Option(0.0, 9)]], 4)
