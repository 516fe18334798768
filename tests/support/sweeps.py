"""Sweeps over many cases of which ``make test`` takes some in turn, and ``make parity`` all: ``pytest --whole``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Case = TypeVar("Case")

_whole = False


def take_all() -> None:
    """From now on, because ``--whole`` is given; before tests are collected."""
    global _whole
    _whole = True


def in_turn(cases: Sequence[Case], number: int, turns: int) -> Sequence[Case]:
    """Those of *cases* whose turn it is: each *turns*-th, from one that follows *number*; all with ``--whole``."""
    return cases if _whole else cases[number % turns :: turns]
