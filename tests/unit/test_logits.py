"""Reference logits and the divergence from them: compiled and in numpy, and what both must give."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.kernels import lanes, logits
from quantkit.kernels import logit_steps as plain

PACKED = ("scale", "floor", "places", "payload")
COMPARED = ("loss", "reference_loss", "divergence", "change", "same")


def rows(seed: int, size: int, spread: float, count: int = 3) -> tuple[npt.NDArray[np.float32], ...]:
    """A reference's logits, a file's, and the right tokens."""
    random = np.random.default_rng(seed)
    theirs = (random.normal(size=(count, size)) * spread).astype(np.float32)
    ours = (theirs + random.normal(size=theirs.shape) * 0.1 * spread).astype(np.float32)
    return theirs, ours, random.integers(0, size, count).astype(np.int32)


def log_softmax(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64) - values.max()
    return wide - math.log(np.exp(wide).sum())


@pytest.mark.skipif(not lanes.available(), reason="numba is not installed")
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 1000, 4099])),
    spread=st.sampled_from([0.0, 0.01, 1.0, 4.0, 30.0, 1e4]),
)
def test_compiled_code_gives_the_bits_of_numpy(seed: int, size: int, spread: float) -> None:
    theirs, ours, right = rows(seed, size, spread)
    packed, expected = logits._pack(theirs, right), plain.pack(theirs, right)
    for name in PACKED:
        np.testing.assert_array_equal(getattr(packed, name), getattr(expected, name), err_msg=name)
    found, wanted = logits._compare(ours, right, packed), plain.compare(ours, right, expected)
    for name in COMPARED:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


@pytest.mark.parametrize(("spread", "layout"), [(0.1, plain.DENSE), (5.0, plain.BITMAP), (40.0, plain.GAPS)])
@pytest.mark.parametrize("size", [300, 4099])
def test_every_layout_keeps_the_tokens_above_the_floor(spread: float, layout: int, size: int) -> None:
    theirs, _, right = rows(1, size, spread)
    packed = plain.pack(theirs, right)
    assert set(packed.places[:, 4]) == {layout}
    start = 0
    for row in range(len(theirs)):
        index, steps = plain.unpack(packed, row, start, size)
        start += int(packed.places[row, 2])
        scale, floor, all_steps = plain.steps_of(theirs[row])
        likely = scale * all_steps.astype(np.float32) + floor
        np.testing.assert_array_equal(index, np.flatnonzero(likely > -16))
        np.testing.assert_array_equal(steps, all_steps[index])
        assert np.abs(likely[index] - log_softmax(theirs[row])[index]).max() < 16 / 65535
        assert packed.places[row, 0] == all_steps.argmax()
        assert packed.places[row, 3] == all_steps[right[row]]
    assert start == len(packed.payload) <= 2 * size * len(theirs)


def test_the_figures_of_a_position_are_kullback_leiblers() -> None:
    theirs, ours, right = rows(2, 500, 2.0, count=20)
    found = logits.compare(ours, right, logits.pack(theirs, right))
    for row in range(20):
        reference, own = log_softmax(theirs[row]), log_softmax(ours[row])
        assert found.divergence[row] == pytest.approx(np.sum(np.exp(reference) * (reference - own)), abs=1e-4)
        assert found.loss[row] == pytest.approx(-own[right[row]], abs=1e-5)
        assert found.reference_loss[row] == pytest.approx(-reference[right[row]], abs=3e-4)
        change = math.exp(own[right[row]]) - math.exp(reference[right[row]])
        assert found.change[row] == pytest.approx(change, abs=1e-4)
        assert found.same[row] == (theirs[row].argmax() == ours[row].argmax())


def test_threads_and_slices_do_not_change_a_bit() -> None:
    theirs, ours, right = rows(3, 700, 3.0, count=50)
    packed, whole = logits.pack(theirs, right), plain.pack(theirs, right)
    for name in PACKED:
        np.testing.assert_array_equal(getattr(packed, name), getattr(whole, name))
    one, many = (logits.compare(ours, right, packed, threads) for threads in (1, 4))
    for name in COMPARED:
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


def test_a_tie_counts_as_the_first_token() -> None:
    theirs = np.array([[1, 2, 2, 0]], dtype=np.float32)
    ours = np.array([[0, 2, 3, 0]], dtype=np.float32)
    right = np.array([1], dtype=np.int32)
    packed = logits.pack(theirs, right)
    assert packed.places[0, 0] == 1
    assert not logits.compare(ours, right, packed).same[0]
    assert logits.compare(theirs, right, packed).same[0]


@pytest.mark.parametrize("run", ["compiled", "numpy"])
@pytest.mark.parametrize("bad", [math.nan, -math.nan])
def test_what_is_not_a_number_is_seen(run: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if run == "numpy":
        monkeypatch.setattr(lanes, "available", lambda: False)
    theirs, ours, right = rows(4, 100, 1.0)
    packed = logits.pack(theirs, right)
    broken = ours.copy()
    broken[1, 7] = bad
    assert np.isnan(logits.compare(broken, right, packed).loss).tolist() == [False, True, False]
    broken = theirs.copy()
    broken[2, 7] = bad
    assert np.isnan(logits.pack(broken, right).floor).tolist() == [False, False, True]


def test_a_token_that_is_never_possible() -> None:
    theirs, ours, right = rows(5, 100, 1.0)
    theirs[:, 7] = ours[:, 7] = -np.inf
    right[:] = 3
    found = logits.compare(ours, right, logits.pack(theirs, right))
    assert np.isfinite(found.divergence).all()


def test_the_exponential() -> None:
    x = np.linspace(-86.9, 0, 100_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(plain.exponential(x) / exact - 1).max() < 2e-7
    assert plain.exponential(np.array([-88, -np.inf], dtype=np.float32)).tolist() == [0, 0]
