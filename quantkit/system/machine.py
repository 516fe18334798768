"""How much main memory there is."""

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
