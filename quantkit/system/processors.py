"""The number of processors that this process may use. Separate from device.py, so that it works without torch."""

from __future__ import annotations

import os

MOST_THREADS = 512
"""llama.cpp aborts its process with more (GGML_MAX_N_THREADS)."""


def usable_processors() -> int:
    """The number of processors that this process may use: fewer than the machine's in a container or with taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def llama_threads(asked: int | None) -> int:
    """The threads that llama.cpp gets: those asked for, or one for each processor that this process may use."""
    return asked or min(usable_processors(), MOST_THREADS)
