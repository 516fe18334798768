"""The formats whose levels number the values of a table (IQ4_NL, IQ4_XS), in numpy operations.

Equal to ggml's ``quantize_iq4_nl`` and ``quantize_iq4_xs``, byte for byte.
"""

from __future__ import annotations

import numpy as np

from quantkit.kernels.arithmetic import Bytes, Floats, first_largest, quiet
from quantkit.kernels.formats import IQ4_VALUES, NOTHING, TableFormat
from quantkit.kernels.iq4_layout import BLOCK, pack, store
from quantkit.kernels.reference.arithmetic import ordered_sum

_VALUES = np.array(IQ4_VALUES, dtype=np.float32)


def encode_table(form: TableFormat, rows: Floats, importance: Floats | None = None) -> Bytes:
    """Encode rows.

    Args:
        form: the format.
        rows: float32, columns a multiple of the type's block.
        importance: float32, shape [columns], or None.

    Returns:
        uint8, shape [blocks of the type, bytes per block].
    """
    x = rows.reshape(-1, BLOCK)
    with quiet():
        stored = store(form, _search(form, x, _weights(form, rows, importance)))
        numbers = _nearest_numbers(stored.inverses[:, None] * x)
    return pack(form, stored, (numbers[:, :16] | numbers[:, 16:] << 4).astype(np.uint8))


def _weights(form: TableFormat, rows: Floats, importance: Floats | None) -> Floats:
    """How much the error of each weight counts, float32 [blocks of 32, 32]."""
    squares = rows * rows
    if importance is None:
        return squares.reshape(-1, BLOCK)
    together = form.together * BLOCK
    mean = ordered_sum(squares.reshape(-1, together)) * np.float32(2 / together)
    weights: Floats = importance * np.sqrt(mean.reshape(rows.shape[0], -1).repeat(together, axis=1) + squares)
    return weights.reshape(-1, BLOCK)


def _search(form: TableFormat, x: Floats, weights: Floats) -> Floats:
    """The scales, float32 [blocks of 32]: the best of a first guess and trials around it with the other sign."""
    largest, least = first_largest(x), _VALUES[0]
    guess = np.float32(1) / (-largest / least)
    trials = [(np.float32(step) + least) / largest for step in range(-form.search.steps, form.search.steps + 1)]
    scale = best = np.zeros_like(largest)
    for number, inverse in enumerate([guess, *trials]):
        values = _VALUES[_nearest_numbers(inverse[:, None] * x)]
        weighted = weights * values
        sum_qx, sum_q2 = ordered_sum(weighted * x) + np.float32(0), ordered_sum(weighted * values)  # not -0
        better = sum_q2 > 0
        if number:
            better &= sum_qx * sum_qx > best * sum_q2
        fit = (sum_qx / sum_q2).astype(np.float32)
        scale, best = np.where(better, fit, scale), np.where(better, fit * sum_qx, best)
    return np.where(np.abs(largest) < np.float32(NOTHING), np.float32(0), scale)


def _nearest_numbers(values: Floats) -> np.ndarray:
    """Numbers of the nearest values of the table, of two the higher; the last for NaN."""
    middles = (_VALUES[:-1] + _VALUES[1:]) / np.float32(2)
    numbers: np.ndarray = np.searchsorted(middles, values, side="right")  # NaN is the last to numpy too
    return numbers
