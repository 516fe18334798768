"""Levels of K-quants for scales and minima as they are stored, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantkit.kernels.formats import K_QUANTS, KQuant
from quantkit.kernels.lane_common import Bytes, Floats, clamp, compiled, nearest_int

# (rows, scales, lows, levels), see _fit.
Fit = Callable[[Floats, Floats, Floats, Bytes], None]


def _fit(form: KQuant) -> Fit:
    """Compile the fit of levels to scales and minima as they are stored.

    Returns:
        A function of rows, float32 [weights]; scales and negated minima, float32 [sub-blocks]; and the levels it
        writes, uint8 [weights]. Levels of sub-blocks whose scale is zero are arbitrary.
    """
    block, least, top, base = form.block, np.int32(form.least), np.int32(form.top), np.int32(-form.least)

    def fit(rows: Floats, scales: Floats, lows: Floats, levels: Bytes) -> None:
        for k in range(rows.size // 32):
            # LLVM would unroll a loop of 16 before it could vectorize it.
            first, second = 32 * k // block, (32 * k + 16) // block
            scale1, scale2, low1, low2 = scales[first], scales[second], lows[first], lows[second]
            for i in range(32):
                scale, low = scale1 if i < 16 else scale2, low1 if i < 16 else low2
                level = clamp(nearest_int((rows[32 * k + i] + low) / scale), least, top)
                levels[32 * k + i] = np.uint8(np.int32(level + base))

    return compiled(fit)


FITS = {kind: _fit(form) for kind, form in K_QUANTS.items()}
