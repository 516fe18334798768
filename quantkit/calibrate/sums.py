"""Sums of squares of activations by column, in float32 and in llama-imatrix's order: one row after another.

Float addition is not associative, so the order is part of the result. ``np.add.reduce`` over the outer axis adds row
by row; a few rows at a time stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

_ROWS = 64  # at a time: with 16,384 columns, 4 MiB of squares


@dataclass
class Sums:
    """What one tensor's columns were multiplied with.

    Attributes:
        values: sums of squares, float32, shape [matrices, columns]; a matrix is an expert, or 1.
        counts: rows that were added, shape [matrices], or [1] if all matrices have the same.
    """

    values: Floats
    counts: Counts

    def copy(self) -> Sums:
        """Another one with the same values."""
        return Sums(self.values.copy(), self.counts.copy())


def empty(matrices: int, columns: int, counts: int) -> Sums:
    """Nothing added yet."""
    return Sums(np.zeros((matrices, columns), dtype=np.float32), np.zeros(counts, dtype=np.int64))


def add_squares(total: Floats, rows: Floats) -> None:
    """Add the squares of *rows*, shape [n, columns], to *total*, shape [columns], in the order of the rows."""
    squares = np.empty((min(_ROWS, len(rows)), len(total)), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # looked for afterwards
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            part = squares[: len(some)]
            np.multiply(some, some, out=part)
            if len(total) == 1:  # one column is one long row to numpy, which it adds in pairs
                for value in part[:, 0]:
                    total[0] += value
                continue
            part[0] += total
            np.add.reduce(part, axis=0, out=total)


def add_dense(sums: Sums, rows: Floats, matrices: tuple[int, int]) -> None:
    """Add the rows that went through an ordinary product.

    Args:
        sums: of the tensor.
        rows: shape [outer, inner, n, columns].
        matrices: the tensor's own outer and inner sizes; rows repeat over them, as ggml's products do.
    """
    outer, inner = matrices
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            add_squares(sums.values[(i % outer) * inner + j % inner], rows[i, j])
    sums.counts += rows.shape[0] * rows.shape[1] * rows.shape[2] // (outer * inner)


def add_routed(sums: Sums, rows: Floats, chosen: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Add the rows that went to experts, for each the first choices of all tokens, then the second ones, and so on.

    Args:
        sums: of the tensor.
        rows: shape [tokens, choices or 1, columns].
        chosen: the expert of each token's choices, shape [tokens, choices].

    Returns:
        The experts that got rows.
    """
    tokens = len(chosen)
    experts = chosen.T.reshape(-1)
    order = np.argsort(experts, kind="stable")
    counts = np.bincount(experts, minlength=len(sums.values))
    starts = np.concatenate(([0], np.cumsum(counts)))
    found = np.flatnonzero(counts)
    for expert in found:
        places = order[starts[expert] : starts[expert + 1]]
        add_squares(sums.values[expert], rows[places % tokens, places // tokens % rows.shape[1]])
    sums.counts += counts
    return found
