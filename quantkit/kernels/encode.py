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
from quantkit.kernels.formats import GRID_SHAPES, IN_LANES, UNWEIGHTED, WEIGHTED

# Weights. Importing numba takes half a second; only small models have no larger range.
WORTH_NUMBA = 1 << 18
# With an x below the first, and an importance with which x * x * importance is below the second, no error and no sum of
# a format with a grid becomes infinite: errors weigh at most the larger of 1.8 * x * importance and 1.5 * x * x, levels
# are at most 15 and blocks have 32 weights, so the largest sum is 32 * 15 * x times that. A scale has overflowed far
# below the first.
_LARGEST_ON_GRID, _LARGEST_WEIGHTED = 1e9, 1e35


def too_large(kind: GGMLType, largest: float, importance: npt.NDArray[np.float32] | None) -> bool:
    """Whether magnitudes up to *largest* must not be encoded in a type: libggml may end the process.

    It does so where no point of a grid is nearer than infinity, and where a scale is NaN.
    """
    if kind not in GRID_SHAPES:
        return False
    most = 0.0 if importance is None else float(importance.max())
    return not (largest < _LARGEST_ON_GRID and largest * largest * most < _LARGEST_WEIGHTED)


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
