"""How much memory there is: main memory, and the caches of the processors."""

from __future__ import annotations

import os
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of the container, "max" for none


def total_memory() -> int | None:
    """Bytes that this process can have at most: the machine's, or its container's; None if the system does not say."""
    total = _pages("SC_PHYS_PAGES")
    if total is None:
        return None
    try:
        limit = int(_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return total
    return min(total, limit)


def free_memory() -> int | None:
    """Bytes that are free; None if the system does not say."""
    return _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int | None:
    try:
        pages, size = os.sysconf(name), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return pages * size if pages > 0 and size > 0 else None


def cache_nbytes(system: Path = Path("/sys/devices/system/cpu")) -> int:
    """Bytes of the largest caches of all processors; 0 where the system does not say.

    Args:
        system: where Linux describes its processors.
    """
    caches: dict[tuple[str, str], int] = {}  # processors that share a cache name the same list
    for one in system.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            told = [(one / name).read_text("ascii").strip() for name in ("level", "shared_cpu_list", "size")]
            caches[told[0], told[1]] = int(told[2].removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in caches), default="")
    return sum(nbytes for (level, _), nbytes in caches.items() if level == last)
