"""Values that encoders must get right, and a strategy that makes more."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

COLUMNS = 256
# Between these magnitudes arithmetic alone decides.
_SMALLEST, _LARGEST = 1e-25, 65504.0


def distributions(rows: int) -> dict[str, np.ndarray]:
    """By name: float32, shape [rows, 256], of magnitudes that a float16 can have."""
    random = np.random.default_rng(11)
    normal = random.standard_normal((rows, COLUMNS), dtype=np.float32)
    weights = normal * np.float32(0.02)
    chosen = random.random(normal.shape)
    mixed = weights.copy()
    mixed[:, :128] = 0
    mixed[::3] = 0.125
    mixed[::7] = -0.25
    mixed[::5, 16:48] = 1e-7
    mixed[::11] = 0
    # A sub-block far from zero beside very small ones: the levels of these are far out of range.
    far = weights.copy()
    far[:, 32:64] = -60000
    far[:, 64:96] *= 1e-4
    close = 1 + weights * np.float32(1e-5)
    made = {
        "weights": weights,
        "heavy tails": weights * np.exp(random.standard_normal(normal.shape, dtype=np.float32)),
        "log-uniform": np.sign(normal) * np.exp(normal * 3),
        "mostly zeros": np.where(chosen < 0.7, 0, weights),
        "almost all zeros, of either sign": np.where(chosen < 0.97, np.where(chosen < 0.5, -0.0, 0.0), weights),
        "positive": np.abs(weights) + np.float32(0.05),
        "negative": -np.abs(weights) - np.float32(0.05),
        "coarse": np.round(weights * 50) / 50,
        "halves": np.round(normal * 64) / 2,
        "same magnitudes": np.where(chosen < 0.5, -1.0, 1.0),
        "scales below float16": weights * np.float32(1e-5),
        "large": weights * np.float32(1e6),
        "zero, constant and tiny sub-blocks": mixed,
        "far from zero": far,
        "close to one another": close,
        "close and negative": -close,
    }
    return {name: np.clip(values, -_LARGEST, _LARGEST).astype(np.float32) for name, values in made.items()}


def importances(columns: int = COLUMNS) -> dict[str, np.ndarray]:
    """By name: importances of columns, float32, shape [columns]."""
    random = np.random.default_rng(13)
    some = random.random(columns) ** 4
    chosen = random.random(columns)
    one = np.zeros(columns)
    one[columns // 3] = 7
    two = np.where(np.arange(columns) % 64 == 5, 1, 0) + np.where(np.arange(columns) % 64 == 38, 1e-3, 0)
    made = {
        "constant": np.ones(columns),
        "random": some,
        "of many magnitudes": np.exp(random.standard_normal(columns) * 4),
        "with zeros": np.where(chosen < 0.3, 0, some),
        "mostly zeros": np.where(chosen < 0.9, 0, some),
        "one column": one,
        "a column of each sub-block": two,
        "zero": np.zeros(columns),
        "very small": some * 1e-18,
        "below float32": some * 1e-38,
        "very large": some * 1e15,
        "the largest": np.where(chosen < 0.5, 1e20, some),
    }
    return {name: values.astype(np.float32) for name, values in made.items()}


def blocks() -> st.SearchStrategy[np.ndarray]:
    """float32, shape [1, 256]: sub-blocks of different character, shrinking to zeros."""
    odd = [0.0, -0.0, 1.0, -1.0, 2.0**-24, -(2.0**-24), _LARGEST, -_LARGEST]
    sizes = st.one_of(st.floats(-2, 2, width=32), st.integers(-64, 64).map(lambda k: k / 32), st.sampled_from(odd))
    some = st.lists(sizes, min_size=1, max_size=8).map(lambda values: np.resize(np.float32(values), 16))
    scaled = st.tuples(some, st.integers(-24, 0)).map(lambda pair: pair[0] * np.float32(2.0 ** pair[1]))
    return st.lists(scaled, min_size=1, max_size=6).map(_row)


def _row(parts: list[np.ndarray]) -> np.ndarray:
    values = np.resize(np.concatenate(parts), (1, COLUMNS)).astype(np.float32)
    return np.where(np.abs(values) < _SMALLEST, np.float32(0), values)


def columns_importance() -> st.SearchStrategy[np.ndarray]:
    """float32, shape [256]: importances of different sizes, zeros among them, shrinking to zeros."""
    sizes = st.one_of(st.floats(0, 4, width=32), st.sampled_from([0.0, 1.0, 2.0**-20, 2.0**20]))
    some = st.lists(sizes, min_size=1, max_size=40)
    scaled = st.tuples(some, st.integers(-60, 44)).map(lambda pair: np.float32(pair[0]) * np.float32(2.0 ** pair[1]))
    return scaled.map(lambda values: np.resize(values, COLUMNS).astype(np.float32))
