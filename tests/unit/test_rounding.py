"""Rounding to the outtype: torch's casts, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantkit.checkpoint.dtypes import BY_TYPE, to_float32
from quantkit.ggml.types import GGMLType
from quantkit.kernels.rounding import OVERFLOW, largest_magnitude, round_to
from tests.support.bits import bits

THEIRS = {GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16, GGMLType.F32: torch.float32}
every_type = pytest.mark.parametrize("outtype", THEIRS, ids=lambda kind: kind.label)


def fitting(values: np.ndarray, outtype: GGMLType) -> np.ndarray:
    return values[np.abs(values) < OVERFLOW[outtype]]  # NaN is not


def assert_is_torchs(values: np.ndarray, outtype: GGMLType) -> None:
    assert values.dtype == np.float32
    assert bits(round_to(values, outtype)) == bits(torch.from_numpy(values).to(THEIRS[outtype]))


@every_type
def test_random_bits(outtype: GGMLType) -> None:
    raw = np.random.default_rng(1).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    assert_is_torchs(fitting(raw, outtype), outtype)


@every_type
def test_weights(outtype: GGMLType) -> None:
    values = np.random.default_rng(2).standard_normal((512, 300), dtype=np.float32)
    for scale in (1, 0.02, 1e-5, 6e-8, 1e-38, 3e-41, 1000):
        assert_is_torchs(values * np.float32(scale), outtype)


def halfway(dtype: torch.dtype) -> np.ndarray:
    """Every value of a 16-bit type, what lies between it and the next, and the float32 on either side of that."""
    codes = torch.arange(1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).double()
    codes = codes[torch.isfinite(codes)].numpy()
    ties = ((codes[:-1] + codes[1:]) / 2).astype(np.float32)
    near = [np.nextafter(ties, np.float32(away)) for away in (0, np.inf)]
    values = np.concatenate([codes.astype(np.float32), ties, *near])
    return np.concatenate([values, -values])


@pytest.mark.parametrize("outtype", [GGMLType.F16, GGMLType.BF16], ids=lambda kind: kind.label)
def test_every_tie_and_its_neighbours(outtype: GGMLType) -> None:
    """Among them zeros of either sign, every subnormal number, and what rounds to the smallest and from none."""
    values = halfway(THEIRS[outtype])
    assert (np.abs(values) < OVERFLOW[outtype]).all()
    assert_is_torchs(values, outtype)


@pytest.mark.parametrize("outtype", [GGMLType.F16, GGMLType.BF16], ids=lambda kind: kind.label)
def test_just_below_the_overflow(outtype: GGMLType) -> None:
    edge = np.float32(OVERFLOW[outtype])
    below = np.nextafter(edge, np.float32(0))
    assert not torch.isfinite(torch.tensor(float(edge)).to(THEIRS[outtype]))
    assert_is_torchs(np.array([below, -below], dtype=np.float32), outtype)
    largest = torch.finfo(THEIRS[outtype]).max
    assert to_float32(round_to(np.array([below, -below], dtype=np.float32), outtype)).tolist() == [largest, -largest]


@every_type
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_any_value(outtype: GGMLType, value: float) -> None:
    assert_is_torchs(fitting(np.array([value], dtype=np.float32), outtype), outtype)


@every_type
def test_shapes_are_kept(outtype: GGMLType) -> None:
    values = np.random.default_rng(3).standard_normal((6, 10), dtype=np.float32)
    for chosen in (values, values.T, values[::2, ::-1], values[:0], values[:, 3], values[2, 4].reshape(())):
        rounded = round_to(chosen, outtype)
        assert (rounded.shape, rounded.dtype) == (chosen.shape, BY_TYPE[outtype])
        assert bits(rounded) == bits(
            torch.from_numpy(np.ascontiguousarray(chosen)).reshape(chosen.shape).to(THEIRS[outtype])
        )
    assert round_to(values, GGMLType.F32) is values


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 0.0), ([0.0], 0.0), ([1.0, -3.0], 3.0), ([4.0, -3.0], 4.0), ([-2.0, -1.0], 2.0), ([1.0, math.inf], math.inf),
     ([-math.inf, 1.0], math.inf)],
)  # fmt: skip
def test_the_largest_magnitude(values: list[float], expected: float) -> None:
    assert largest_magnitude(np.array(values, dtype=np.float32)) == expected


@pytest.mark.parametrize("values", [[math.nan], [1.0, math.nan, -2.0], [math.inf, math.nan], [math.nan, -math.inf]])
def test_no_magnitude_is_larger_than_nan(values: list[float]) -> None:
    assert math.isnan(largest_magnitude(np.array(values, dtype=np.float32)))
