"""The closest product of two thin matrices to a given one: a singular value decomposition, cut off.

Small matrices, and those of which many singular values are wanted, are decomposed exactly, in float64. Of the others
the range is found by random vectors and power iterations (N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure
with randomness", SIAM Review 53, 2011, algorithm 4.4; in blocks for a given error: P.-G. Martinsson, S. Voronin, "A
randomized blocked algorithm for efficiently computing rank-revealing factorizations of matrices", SIAM J. Sci. Comput.
38, 2016). The random vectors have a fixed seed. What is left is measured on the factors as they are returned.

torch and not numpy: it is there with PEFT, and ``torch.set_num_threads(1)`` keeps each decomposition in one thread, so
that its bits do not depend on how many are computed at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_SMALL = 512  # of the shorter side: decomposed exactly
_MORE = 16  # random vectors beyond the rank
_BLOCK = 64  # random vectors at a time, for a given error
_POWER_ITERATIONS = 4  # of a fixed rank: spectra of trained changes fall slowly
_PARTS = 4  # a range of more than a quarter of the shorter side is not worth finding
_ZERO = 1e-7  # singular values below, of the largest, are rounding
_ROWS = 1024
_MARGIN = 0.999  # for what else rounds the factors: their scale, the merged weights

LEAST_ERROR = 1e-5
"""Float32 factors cannot promise less."""


@dataclass(frozen=True)
class Factors:
    """A product of two matrices.

    Attributes:
        left: float32, shape [out, rank].
        right: float32, shape [rank, in].
        error: Frobenius norm of what it leaves of the matrix, relative to the matrix's.
    """

    left: torch.Tensor
    right: torch.Tensor
    error: float

    @property
    def rank(self) -> int:
        """Columns of *left*."""
        return self.left.shape[1]


def of_rank(matrix: torch.Tensor, rank: int, noise: float = 0.0) -> Factors:
    """The factors of at most this rank that are closest to a matrix, to within a few percent of their error.

    Args:
        matrix: float32, shape [out, in], not zero.
        rank: at least 1.
        noise: singular values up to this one mean nothing, and are left out.
    """
    small = min(matrix.shape)
    exact = small <= _SMALL or rank + _MORE > small // _PARTS
    u, s, v = _decomposed(matrix) if exact else _near(matrix, rank + _MORE, _POWER_ITERATIONS)
    count = max(1, min(rank, int((s > max(noise, _ZERO * float(s[0]))).sum())))
    return _factors(matrix, u, s, v, count)


def of_error(matrix: torch.Tensor, error: float) -> Factors:
    """Factors that leave no more than *error* of a matrix, of the least rank that was found.

    Args:
        matrix: float32, shape [out, in], not zero.
        error: relative, in the Frobenius norm; from :data:`LEAST_ERROR` to 1.
    """
    whole = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
    small, found = min(matrix.shape), None
    if small > _SMALL:
        found = _within(matrix, error * whole, small // _PARTS)
    if found is not None:
        u, s, v, rest = found
        if (done := _least(matrix, u, s, v, whole * error, rest, error)) is not None:
            return done
    u, s, v = _decomposed(matrix)
    done = _least(matrix, u, s, v, whole * error, 0.0, error)
    assert done is not None, "all singular values leave only rounding"
    return done


def _least(
    matrix: torch.Tensor, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, allowed: float, rest: float, error: float
) -> Factors | None:
    """The fewest singular values that leave no more than is allowed; None if all of them leave more.

    Args:
        matrix: what is approximated.
        u, s, v: its singular vectors and values.
        allowed: norm of what may be left.
        rest: norm of what they do not span.
        error: *allowed*, relative.
    """
    dropped = torch.sqrt(torch.flip(torch.cumsum(torch.flip(s**2, (0,)), 0), (0,)) + rest**2)
    count = max(1, int((dropped > allowed).sum()))
    while count <= len(s):
        factors = _factors(matrix, u, s, v, count)
        if factors.error <= _MARGIN * error:
            return factors
        count += 1  # the rounding of the factors
    return None


def _decomposed(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors and values in float64: [out, n], [n], [n, in], n being the shorter side."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u, s, v


def _near(matrix: torch.Tensor, count: int, iterations: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first singular vectors and values, by random vectors: [out, count], [count], [count, in], float64."""
    basis = _range(matrix, count, iterations)
    return _in_basis(basis, basis.T @ matrix)


def _within(
    matrix: torch.Tensor, allowed: float, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float] | None:
    """Singular vectors and values that leave less than is allowed, and what they leave; None if *most* leave more."""
    rest = matrix.clone()
    bases: list[torch.Tensor] = []
    parts: list[torch.Tensor] = []
    left = math.inf
    # Less than allowed, because what is cut off afterwards adds to it.
    while left > 0.8 * allowed:
        if len(bases) * _BLOCK >= most:
            return None
        basis = _range(rest, _BLOCK, 1)
        for before in bases:  # orthogonal to rounding only once
            basis = basis - before @ (before.T @ basis)
        basis = torch.linalg.qr(basis)[0]
        part = basis.T @ rest
        rest.addmm_(basis, part, alpha=-1)
        bases.append(basis)
        parts.append(part)
        left = float(torch.linalg.vector_norm(rest, dtype=torch.float64))
    u, s, v = _in_basis(torch.cat(bases, 1), torch.cat(parts))
    return u, s, v, left


def _range(matrix: torch.Tensor, count: int, iterations: int) -> torch.Tensor:
    """An orthonormal basis [out, count] of where a matrix maps most: float32."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], count, generator=generator))[0]
    for _ in range(iterations):
        back = torch.linalg.qr(matrix.T @ basis)[0]
        basis = torch.linalg.qr(matrix @ back)[0]
    return torch.as_tensor(basis)


def _in_basis(basis: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, v = torch.linalg.svd(inside.double(), full_matrices=False)
    return basis.double() @ u, s, v


def _factors(matrix: torch.Tensor, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, count: int) -> Factors:
    """Both factors with the root of each singular value; the largest weight of each column is positive."""
    root = torch.sqrt(s[:count])
    u = u[:, :count]
    at = u.abs().argmax(0, keepdim=True)
    root_signed = root * torch.sign(torch.gather(u, 0, at))[0]
    left, right = (u * root_signed).float().contiguous(), (v[:count] * root_signed[:, None]).float().contiguous()
    return Factors(left, right, _left_over(matrix, left, right))


def _left_over(matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """Norm of ``matrix - left @ right`` over the matrix's, some rows at a time."""
    rest = whole = 0.0
    for start in range(0, len(matrix), _ROWS):
        rows, some = matrix[start : start + _ROWS], left[start : start + _ROWS]
        gone = torch.addmm(rows, some, right, alpha=-1)
        rest += float(torch.sum(gone.double() ** 2))
        whole += float(torch.sum(rows.double() ** 2))
    return math.sqrt(rest / whole)
