"""Where MXFP4's exponents begin: ggml takes them from ``floorf(log2f(x))``, and log2f rounds."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.arithmetic import Bytes
from quantkit.kernels.rounding import LARGEST, SMALLEST

# The powers of two that can be just above the largest magnitude of a block.
FIRST, LAST = math.frexp(SMALLEST)[1], math.frexp(LARGEST)[1]
# The logarithm of a float32 so many steps below a power of two in this range is certainly less than a whole number.
_STEPS = 128


@cache
def early_steps() -> Bytes:
    """How many steps of float32 below each power of two, from 2**FIRST, its exponent begins; uint8.

    libggml itself is asked: the C library's log2f decides, a few steps at most.
    """
    powers = np.ldexp(np.float32(1), np.arange(FIRST, LAST + 1)).astype(np.float32)
    blocks = np.zeros((powers.size, _STEPS + 1, 32), dtype=np.float32)
    blocks[:, :, 0] = (powers.view(np.int32)[:, None] - np.arange(_STEPS + 1, dtype=np.int32)).view(np.float32)
    encoded = ggml.quantize_rows(GGMLType.MXFP4, blocks.reshape(1, -1)).reshape(powers.size, _STEPS + 1, -1)
    exponents = encoded[:, :, 0]
    steps: Bytes = (exponents[:, 1:] == exponents[:, :1]).sum(axis=1).astype(np.uint8)
    return steps
