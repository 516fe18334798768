"""Rows with products to add: the order of the sum, parts, and what is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantkit.engine.rows import Rows, joined
from quantkit.kernels.low_rank import add_low_rank
from tests.support.bits import as_array, bits
from tests.support.sums import low_rank_sum

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def by_hand(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One number at a time."""
    made = rows.copy()
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            x = rows[i, j]
            for k in range(len(right)):
                x = np.float32(x + np.float32(left[i, k] * right[k, j]))
            made[i, j] = x
    return made


@given(
    rows=st.integers(0, 6), columns=st.integers(1, 9), rank=st.integers(0, 7), size=st.integers(-20, 20),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_sum_is_the_loop(rows: int, columns: int, rank: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, left, right = (
        random.standard_normal(shape, dtype=np.float32) for shape in ((rows, columns), (rows, rank), (rank, columns))
    )
    left *= np.float32(2.0**size)
    expected = by_hand(weight, left, right)
    theirs = low_rank_sum(torch.from_numpy(weight.copy()), torch.from_numpy(left), torch.from_numpy(right), 1.0)
    assert bits(expected) == bits(theirs)
    found = add_low_rank(weight, left, right)
    assert found is weight, "it is changed in place"
    assert bits(found) == bits(expected)


def test_other_orders_have_other_bits() -> None:
    """What is promised is not what any library's product gives."""
    random = np.random.default_rng(5)
    weight, left, right = (random.standard_normal(s, dtype=np.float32) for s in ((32, 48), (32, 16), (16, 48)))
    assert bits(by_hand(weight, left, right)) != bits(weight + left @ right)


def test_factors_of_any_layout() -> None:
    random = np.random.default_rng(6)
    weight, left, right = (random.standard_normal(s, dtype=np.float32) for s in ((9, 8), (9, 3), (3, 8)))
    expected = by_hand(weight, left, right)
    assert bits(add_low_rank(weight.copy(), np.asfortranarray(left), np.asfortranarray(right))) == bits(expected)
    assert bits(add_low_rank(weight.copy(), left[::-1][::-1], right)) == bits(expected)


def example(dtype: torch.dtype) -> tuple[Rows, torch.Tensor]:
    """Rows with two products, and what they are when both are added."""
    generator = torch.Generator().manual_seed(7)
    stored = torch.randn((11, 16), generator=generator).to(dtype)
    factors = [[torch.randn(s, generator=generator) for s in ((11, rank), (rank, 16))] for rank in (2, 5)]
    expected = stored
    rows = Rows(as_array(stored))
    for left, right in factors:
        rows, expected = rows.plus(left.numpy(), right.numpy()), low_rank_sum(expected, left, right, 1.0)
    return rows, expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_in_the_order_of_adding(dtype: torch.dtype) -> None:
    rows, expected = example(dtype)
    before = rows.stored.tobytes()
    assert bits(rows.merged()) == bits(expected)
    assert rows.stored.tobytes() == before
    assert bits(rows.merged()) == bits(expected)
    swapped = Rows(rows.stored, rows.pairs[::-1])
    assert bits(swapped.merged()) != bits(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_is_merged_as_the_whole(dtype: torch.dtype) -> None:
    rows, expected = example(dtype)
    for start, stop in ((0, 11), (0, 1), (3, 7), (10, 11), (4, 4), (8, 20)):
        part = rows.part(slice(start, stop))
        assert np.shares_memory(part.stored, rows.stored) or start == stop
        assert all(mine[1] is theirs[1] for mine, theirs in zip(part.pairs, rows.pairs, strict=True))
        assert bits(part.merged()) == bits(expected[start:stop])


def test_plus_leaves_the_rows_as_they_were() -> None:
    rows, _ = example(torch.float32)
    bare = Rows(rows.stored)
    more = bare.plus(*rows.pairs[0])
    assert (bare.pairs, len(more.pairs)) == ((), 1)
    assert more.stored is bare.stored


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_merged_is_the_callers_own(dtype: torch.dtype) -> None:
    stored = as_array(torch.ones((3, 4), dtype=dtype))
    for rows in (Rows(stored), Rows(stored[1]), Rows(stored.T)):
        made = rows.merged()
        assert (made.dtype, made.flags.c_contiguous, made.flags.writeable) == (np.float32, True, True)
        assert made.shape == rows.stored.shape
        made.fill(9)
    assert bits(stored) == bits(torch.ones((3, 4), dtype=dtype))


def test_rows_of_several_places_become_one() -> None:
    random = np.random.default_rng(8)
    stored, left, right = (random.standard_normal(s, dtype=np.float32) for s in ((9, 8), (9, 3), (3, 8)))
    whole = Rows(stored.astype(np.float16)).plus(left, right)
    found = joined([whole.part(slice(5, 9)), whole.part(slice(0, 2)), whole.part(slice(2, 5))])
    order = [5, 6, 7, 8, 0, 1, 2, 3, 4]
    assert found.stored.dtype == np.float16
    assert found.pairs[0][1] is right, "a factor of all rows stays one object"
    assert bits(found.merged()) == bits(whole.merged()[order])
    mixed = joined([whole.part(slice(5, 9)), Rows(whole.merged()[:5])])  # where only some rows were computed
    assert bits(mixed.merged()) == bits(whole.merged()[order])


def test_columns_in_another_order() -> None:
    random = np.random.default_rng(9)
    stored, left, right = (random.standard_normal(s, dtype=np.float32) for s in ((4, 6), (4, 2), (2, 6)))
    order = np.array([3, 1, 5, 0, 2, 4])
    plain = Rows(stored.astype(np.float16))
    assert bits(plain.with_columns(order).stored) == bits(plain.stored[:, order])
    changed = plain.plus(left, right)
    assert bits(changed.with_columns(order).merged()) == bits(changed.merged()[:, order])
