"""The order of rows or columns, as runs of numbers that follow each other: consecutive ones, of columns any range."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

Runs = tuple[range, ...]
Indices = npt.NDArray[np.intp]


def runs_between(runs: Runs, start: int, stop: int) -> Iterator[range]:
    """The runs that make up places ``start:stop`` of the new order."""
    for run, end in zip(runs, accumulate(map(len, runs)), strict=True):
        begin = end - len(run)
        if begin < stop and start < end:
            yield run[max(start - begin, 0) : stop - begin]


@lru_cache(maxsize=64)
def indices(runs: Runs) -> Indices:
    """For each place of the new order, the old number."""
    found = np.concatenate([np.arange(run.start, run.stop, run.step, dtype=np.intp) for run in runs])
    found.flags.writeable = False  # it is shared
    return found


def tiled(groups: int, each: int, size: int, start: int = 0) -> Runs:
    """Blocks that are stored group by group, reordered: the first of every group, then the second of every group.

    Args:
        groups: number of groups.
        each: blocks in a group.
        size: rows or columns of a block.
        start: the first row or column of the first block.
    """
    first = [start + (group * each + member) * size for member in range(each) for group in range(groups)]
    return tuple(range(number, number + size) for number in first)
