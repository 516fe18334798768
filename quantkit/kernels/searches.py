"""The searches for the scales of a block: the numbers of each kind, which are those of ggml-quants.c."""

from __future__ import annotations

from dataclasses import dataclass

# How far the levels -1, 0 and 1 of IQ1 are moved up or down.
LEVEL_MOVE = 0.125


@dataclass(frozen=True)
class AffineSearch:
    """The search for a scale and a minimum (``make_qkx2_quants``; with importances ``make_qkx3_quants``).

    Attributes:
        first: the first trial widens the range of levels by this.
        steps: the number of trials after the first.
        absolute: whether errors and weights are magnitudes rather than squares.
        apart: how much further each trial widens the range.
    """

    first: float
    steps: int
    absolute: bool
    apart: float = 0.1


@dataclass(frozen=True)
class TrialSearch:
    """The search for a scale among trials around the obvious one (``make_qx_quants``).

    Attributes:
        steps: the number of trials on each side, 0.1 apart.
    """

    steps: int


@dataclass(frozen=True)
class MovingSearch:
    """The search for a scale that moves one level after the other (``make_q3_quants``).

    Attributes:
        rounds: the most passes over a sub-block.
    """

    rounds: int


@dataclass(frozen=True)
class GridSearch:
    """The search for a scale with which the groups of a block are nearest to points of a grid.

    Attributes:
        steps: the number of trials on each side of the one that gives the largest weight the highest level.
        apart: how much further each trial widens the range of values; neighbouring levels are 2 apart.
    """

    steps: int
    apart: float


@dataclass(frozen=True)
class SplitSearch:
    """The search among all ways to split the sorted weights of a block into three levels.

    Attributes:
        parts: equal parts of a block, the levels of each of which are moved up or down by :data:`LEVEL_MOVE`.
    """

    parts: int
