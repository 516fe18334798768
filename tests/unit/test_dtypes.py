"""Element types: every value of every one of them is torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantkit.checkpoint.dtypes import BF16, F8_E4M3, FLOATS, READABLE, all_finite, bits_of, to_float32
from tests.support.bits import DTYPES, as_array, as_tensor, bits

# By type of one or two bytes, whether it has fractions.
EVERY = {
    dtype: theirs for theirs, dtype in DTYPES.items() if dtype.itemsize <= 2 and dtype != np.dtype("?")
}  # fmt: skip


def every_value(dtype: np.dtype) -> np.ndarray:
    count = 1 << (8 * dtype.itemsize)
    return np.arange(count, dtype=f"<u{dtype.itemsize}").view(dtype)


def same_floats(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """The same bits, but for the payload of NaN."""
    expected = theirs.numpy()
    assert (ours.dtype, ours.shape) == (np.float32, expected.shape)
    is_nan = np.isnan(expected)
    assert (np.isnan(ours) == is_nan).all()
    assert (ours.view(np.uint32) == expected.view(np.uint32))[~is_nan].all()


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_every_value_is_torchs(dtype: np.dtype) -> None:
    values = every_value(dtype)
    theirs = torch.from_numpy(values.view(np.uint8).copy()).view(EVERY[dtype]).float()
    same_floats(to_float32(values), theirs)
    shaped = values.reshape(16, -1)
    same_floats(to_float32(shaped), theirs.reshape(16, -1))
    same_floats(to_float32(shaped[::-1, ::2]), theirs.reshape(16, -1).flip(0)[:, ::2])
    same_floats(to_float32(shaped.T), theirs.reshape(16, -1).T)
    same_floats(to_float32(values[:0]), theirs[:0])
    same_floats(to_float32(values[200].reshape(())), theirs[200])


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_finite_is_what_torch_says(dtype: np.dtype) -> None:
    values = every_value(dtype)
    finite = torch.isfinite(torch.from_numpy(values.view(np.uint8).copy()).view(EVERY[dtype]).float()).numpy()
    assert [all_finite(values[i : i + 1]) for i in range(len(values))] == finite.tolist()
    assert all_finite(values[finite])
    assert all_finite(values[:0])
    assert all_finite(values) is bool(finite.all())
    assert all_finite(values[200].reshape(())) is bool(finite[200])


@pytest.mark.parametrize(("value", "finite"), [(0.0, True), (3.4e38, True), (np.nan, False), (-np.inf, False)])
def test_finite_float32(value: float, finite: bool) -> None:
    values = np.ones((300, 7), dtype=np.float32)
    values[299, 6] = value
    assert all_finite(values) is finite
    assert all_finite(values[:299])


def test_float32_is_not_copied_and_everything_else_is() -> None:
    values = np.ones((3, 4), dtype=np.float32)
    assert to_float32(values) is values
    for dtype in READABLE.values():
        if dtype != np.float32:
            stored = np.zeros((4, 3), dtype=dtype).T
            made = to_float32(stored)
            assert made.flags.c_contiguous
            assert not np.shares_memory(made, stored)
            assert (made == 0).all() or dtype.names == ("f8_e8m0",)


def test_integers_and_truths() -> None:
    for dtype, values in (("<i4", [-5, 16777216]), ("<i8", [1 << 40, -1]), ("?", [True, False])):
        stored = np.array(values, dtype=dtype)
        assert to_float32(stored).tolist() == [float(value) for value in values]
        assert all_finite(stored)


def test_bits_of_keep_the_shape() -> None:
    values = np.array([[0x3F80, 0x4000], [0xFF80, 0x7FC0]], dtype="<u2").view(BF16)
    assert (bits_of(values).dtype, bits_of(values).tolist()) == (np.uint16, [[0x3F80, 0x4000], [0xFF80, 0x7FC0]])
    assert bits_of(values.T).tolist() == [[0x3F80, 0xFF80], [0x4000, 0x7FC0]]
    assert bits_of(values[0, 1].reshape(())).shape == ()
    assert bits_of(np.zeros(3, dtype=F8_E4M3)).dtype == np.uint8


def test_types_without_numbers_cannot_be_computed_with() -> None:
    values = np.zeros(3, dtype=BF16)
    with pytest.raises(TypeError):
        values + values
    assert set(FLOATS) == {"F32", "F16", "BF16"}


@pytest.mark.parametrize("theirs", DTYPES, ids=str)
def test_the_tests_own_way_from_one_to_the_other(theirs: torch.dtype) -> None:
    raw = torch.randint(0, 2, (6, 8 * theirs.itemsize), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tensor = raw.view(theirs)
    assert as_array(tensor).tobytes() == raw.numpy().tobytes()
    assert bits(as_tensor(as_array(tensor))) == bits(tensor)
