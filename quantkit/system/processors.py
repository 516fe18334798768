"""The processors that this process may use, and those that are free. Separate from device.py, so that it works without
torch.

llama.cpp's threads wait for each other after every operation. If another program uses one of their processors, all of
them wait: on two busy cores one thread is 4 to 90 times as fast as two. So llama.cpp gets the free ones by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

MOST_THREADS = 512
"""llama.cpp aborts its process with more (GGML_MAX_N_THREADS)."""

_LOOK = 0.05  # seconds in which the use of the processors is measured
_STAT, _CGROUP, _MEMBERSHIP = Path("/proc/stat"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

# Processor -> its idle and its whole time, in the system's ticks.
_Times = Mapping[int, tuple[int, int]]


def usable_processors() -> int:
    """The number of processors that this process may use: fewer than the machine's in a container or with taskset."""
    count = len(_allowed()) or os.cpu_count() or 1
    quota = cgroup_processors(_CGROUP, _MEMBERSHIP)
    return count if quota is None else max(1, min(count, round(quota)))


def llama_threads(asked: int | None) -> int:
    """The threads that llama.cpp gets: those asked for, or one for each free processor that this process may use."""
    return asked or min(_free_now(), MOST_THREADS)


def free_processors(before: _Times, after: _Times, own_ticks: float, allowed: frozenset[int]) -> int | None:
    """How many processors other programs left free between two looks, at least one; None if that is not known.

    Args:
        before: the first look.
        after: the second look.
        own_ticks: what this process used itself.
        allowed: the processors that count.
    """
    spans = [
        (after[number][0] - before[number][0], after[number][1] - before[number][1])
        for number in allowed & before.keys() & after.keys()
    ]
    whole = sum(span for _, span in spans)
    if whole <= 0:
        return None
    free = sum(idle for idle, _ in spans) + own_ticks
    return max(1, round(len(spans) * min(free / whole, 1.0)))


def cgroup_processors(root: Path, membership: Path) -> float | None:
    """The processors that the control groups of this process allow, None for no limit.

    Args:
        root: where control groups are mounted.
        membership: what lists those of this process.
    """
    found = []
    for line in _lines(membership):
        _, controllers, path = line.split(":", 2)
        base = root if not controllers else root / "cpu"
        folder = base / path.strip("/")
        for place in (folder, *folder.parents):
            found.append(_quota(place))
            if place == base:
                break
    limits = [quota for quota in found if quota is not None]
    return min(limits) if limits else None


def _quota(folder: Path) -> float | None:
    """The limit of one group, in the files of version 2 or 1."""
    texts = " ".join(_lines(folder / "cpu.max")).split()
    if not texts:
        texts = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    with suppress(ValueError):
        quota, period = map(int, texts)
        if quota > 0 and period > 0:
            return quota / period
    return None


@cache
def _free_now() -> int:
    usable, allowed = usable_processors(), frozenset(_allowed())
    before, began = _times(), time.process_time()
    if not before or usable == 1:
        return usable
    time.sleep(_LOOK)
    own = (time.process_time() - began) * os.sysconf("SC_CLK_TCK")
    free = free_processors(before, _times(), own, allowed)
    return usable if free is None else min(free, usable)


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _times() -> _Times:
    """What Linux says of each processor; nothing elsewhere."""
    found = {}
    for line in _lines(_STAT):
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(count) for count in counts[:8]]  # guests are in the first two
            found[int(name[3:])] = (sum(ticks[3:5]), sum(ticks))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
