"""How many processors this process may use. Apart from device.py, so that those without torch can ask too."""

from __future__ import annotations

import os

MOST_THREADS = 512
"""llama.cpp ends its process at more (GGML_MAX_N_THREADS)."""


def usable_processors() -> int:
    """The processors this process may use: fewer than the machine's in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
