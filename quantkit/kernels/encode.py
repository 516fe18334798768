"""Encoders from float32 rows to ggml's blocks, bit-identical to libggml's reference.

Which code runs affects only the speed: numba, where it is installed, compiles encoders for large ranges of most
formats, and of all that depend on one with an importance matrix; libggml encodes everything else. Tests hold both, and
the CUDA kernels in ``cuda.py``, to the bytes that ``reference/encode.py`` specifies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes
from quantkit.kernels.formats import IN_LANES, UNWEIGHTED, WEIGHTED

# Weights. Importing numba takes half a second; only small models have no larger range.
WORTH_NUMBA = 1 << 18


def encode(
    kind: GGMLType, rows: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None = None
) -> memoryview:
    """Encode rows as one type.

    Args:
        kind: the type.
        rows: float32, shape [n, columns], contiguous, columns a multiple of the type's block.
        importance: float32, shape [columns], or None. It selects other algorithms; it does not affect Q8_0,
            MXFP4, TQ1_0 and TQ2_0.

    Returns:
        The encoded bytes, n * bytes per row.
    """
    if rows.size >= WORTH_NUMBA and lanes.available():
        weights = None if kind in UNWEIGHTED else importance
        encoded = lanes.encode(kind, rows, weights) if kind in (IN_LANES if weights is None else WEIGHTED) else None
        if encoded is not None:
            return encoded.reshape(-1).data
    return ggml.quantize_rows(kind, rows, importance).data
