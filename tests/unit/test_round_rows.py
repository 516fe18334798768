"""Merge and round, compiled and in numpy operations, hold the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.checkpoint.dtypes import to_float32
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes, round_rows
from quantkit.kernels.low_rank import add_low_rank
from quantkit.kernels.rounding import OVERFLOW, round_to
from tests.support.bits import bits

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

FLOATS = [GGMLType.F16, GGMLType.BF16, GGMLType.F32]
stored_types = pytest.mark.parametrize("stored", FLOATS, ids=lambda kind: kind.name)
outtypes = pytest.mark.parametrize("outtype", FLOATS, ids=lambda kind: kind.name)


@pytest.fixture(autouse=True)
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_rows, "WORTH_NUMBA", 0)


def values(shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers, float16's subnormals, zeros of both signs, halves between two float16."""
    rng = np.random.default_rng(shape[1])
    rows = (rng.standard_normal(shape) * 0.02).astype(np.float32)
    rows[0] *= np.float32(2e-5)
    rows[1] = np.float32(1) + np.arange(shape[1], dtype=np.float32) * np.float32(2.0**-11)
    rows[2, ::2], rows[2, 1::2] = 0.0, -0.0
    rows[3] *= np.float32(1e-9)
    return rows


@stored_types
@outtypes
@pytest.mark.parametrize("ranks", [(), (1,), (16,), (3, 8)], ids=str)
@pytest.mark.parametrize("columns", [1, 31, 256, 300, 1024])
def test_compiled_is_numpy(stored: GGMLType, outtype: GGMLType, ranks: tuple[int, ...], columns: int) -> None:
    rng = np.random.default_rng(columns)
    rows = round_to(values((7, columns)), stored)
    pairs = [
        (
            (rng.standard_normal((7, rank)) * 0.1).astype(np.float32),
            (rng.standard_normal((rank, columns)) * 0.05).astype(np.float32),
        )
        for rank in ranks
    ]
    before = rows.tobytes()
    found = round_rows.round_rows(rows, pairs, outtype)
    expected = to_float32(rows).copy()
    for left, right in pairs:
        add_low_rank(expected, left, right)
    assert found.largest == np.abs(expected).max()
    assert found.bits is not None
    assert bits(found.bits) == bits(round_to(expected, outtype))
    assert bits(found.floats) == bits(to_float32(round_to(expected, outtype)))
    assert rows.tobytes() == before


@stored_types
@outtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(stored: GGMLType, outtype: GGMLType, value: float) -> None:
    rows = np.ones((4, 300), dtype=np.float32)
    rows[2, 280] = value
    with np.errstate(invalid="ignore"):
        held = rows if stored is GGMLType.F32 else rows.astype(np.float16)
    if stored is GGMLType.BF16:
        held = (rows.view(np.uint32) >> 16).astype(np.uint16).view(round_to(np.ones(1, np.float32), stored).dtype)
    found = round_rows.round_rows(held, [], outtype)
    assert found.bits is None
    assert not found.largest < OVERFLOW[outtype]
    assert np.isnan(found.largest) == np.isnan(value)


def test_a_value_that_rounds_to_infinity() -> None:
    rows = np.ones((4, 300), dtype=np.float32)
    for value, fits in ((65519.996, True), (-65519.996, True), (65520.0, False), (-1e6, False)):
        rows[1, 3] = value
        found = round_rows.round_rows(rows, [], GGMLType.F16)
        assert (found.bits is not None, found.largest) == (fits, abs(np.float32(value)))


def test_small_rows_do_not_wait_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> bool:
        raise AssertionError

    monkeypatch.undo()
    monkeypatch.setattr(lanes, "available", never)
    assert round_rows.round_rows(np.ones((2, 256), dtype=np.float32), [], GGMLType.F16).largest == 1
