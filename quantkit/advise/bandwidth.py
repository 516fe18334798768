"""How fast this machine reads its memory: a short measurement.

To give a token, a processor reads all weights once, so memory limits how fast a model answers, once it is larger than
the caches. Other work disturbs a measurement in one direction only; the best of a few rounds counts.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from quantkit.system.machine import cache_nbytes, total_memory

# What is read, by all threads together: more than the caches hold. Servers have caches of 300 MB and more.
_LEAST_NBYTES, _CACHES, _PART_OF_MEMORY = 256 * 2**20, 2, 16
_ROUNDS, _SECONDS = 4, 0.1

EFFICIENCY = 0.6
"""Of that speed, what llama.cpp gets out of it while it answers.

Measured with one thread on a processor with AVX-512, on models from 29 million to 1.5 billion weights: 0.75 with F16,
0.52 to 0.64 with Q8_0, Q4_K_M and Q4_0, 0.38 for a small Gemma with its large vocabulary.
"""


def expected_speed(bandwidth: float, per_token: float) -> float:
    """Tokens a second to expect.

    Args:
        bandwidth: bytes a second that the processors read.
        per_token: bytes that are read for a token.
    """
    return EFFICIENCY * bandwidth / per_token


def read_bandwidth(threads: int) -> float:
    """Bytes a second that *threads* threads together read from memory, in about half a second."""
    nbytes = max(_LEAST_NBYTES, _CACHES * cache_nbytes())
    if (total := total_memory()) is not None:
        nbytes = min(nbytes, total // _PART_OF_MEMORY)
    parts = [np.ones(max(nbytes // 8 // threads, 1), np.int64) for _ in range(threads)]
    return max(_round(parts) for _ in range(_ROUNDS))


def _round(parts: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> float:
    counts = [0] * len(parts)
    start = time.perf_counter()

    def read(index: int) -> None:
        while not counts[index] or time.perf_counter() - start < _SECONDS:  # a thread may begin later than that
            parts[index].sum()  # numpy lets other threads run meanwhile
            counts[index] += parts[index].nbytes

    readers = [threading.Thread(target=read, args=(index,)) for index in range(len(parts))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return sum(counts) / (time.perf_counter() - start)
