"""Grids are libggml's, and neighbours are what the definition says."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.ggml.types import GGMLType
from quantkit.kernels.formats import GRID_SHAPES
from quantkit.kernels.grids import grid_of, lattice

every_grid = pytest.mark.parametrize("kind", sorted(GRID_SHAPES), ids=lambda kind: kind.name)


@every_grid
def test_codes_and_points_are_inverse(kind: GGMLType) -> None:
    grid = grid_of(kind)
    shape = grid.shape
    assert grid.points.shape == (shape.codes, shape.group)
    assert np.unique(grid.points).tolist() == list(range(shape.levels))
    numbers = grid.points @ shape.levels ** np.arange(shape.group)
    assert np.array_equal(grid.codes[numbers], np.arange(shape.codes))
    assert (grid.codes >= 0).sum() == shape.codes
    assert np.array_equal(lattice(shape)[numbers], grid.points)
    assert grid.codes[0] >= 0  # the lowest levels, which zeros have


@every_grid
def test_neighbours_are_the_nearest_in_order(kind: GGMLType) -> None:
    grid = grid_of(kind)
    points, numbers = grid.points.astype(int), np.random.default_rng(1).permutation(grid.codes.size)[:500]
    for number in numbers:
        found = grid.neighbours[grid.starts[number] : grid.starts[number + 1]].tolist()
        if grid.codes[number] >= 0:
            assert found == []
            continue
        distances = ((points - lattice(grid.shape)[number]) ** 2).sum(axis=1)
        allowed = sorted(set(distances.tolist()))[: grid.shape.distances]
        expected = sorted((distance, code) for code, distance in enumerate(distances.tolist()) if distance in allowed)
        assert found == [code for _, code in expected]


@every_grid
def test_words_are_levels_and_codes(kind: GGMLType) -> None:
    grid = grid_of(kind)
    words = grid.words(grid.neighbours)
    assert np.array_equal(words >> 16, grid.neighbours)
    mask = (1 << grid.bits) - 1
    for i in range(grid.shape.group):
        assert np.array_equal(words >> (i * grid.bits) & mask, grid.points[grid.neighbours, i])
