"""A range in one compiled call: the bytes of libggml, the largest magnitude, and what it leaves to others."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.checkpoint.dtypes import to_float32
from quantkit.engine.backend import Backend, Target
from quantkit.engine.rows import Rows
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lane_range, one_call
from quantkit.kernels.formats import ONE_CALL
from quantkit.kernels.kept import Kept
from quantkit.kernels.low_rank import add_low_rank
from quantkit.kernels.rounding import round_to

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

FLOATS = [GGMLType.F16, GGMLType.BF16, GGMLType.F32]
KINDS = [*((kind,) for kind in sorted(ONE_CALL)), tuple(sorted(ONE_CALL)), tuple(sorted(ONE_CALL, reverse=True))]
Pairs = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(autouse=True)
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_call, "WORTH_NUMBA", 0)
    monkeypatch.setattr(lane_range, "_STRIP", 1 << 11)


def given(stored: GGMLType, rank: int = 5) -> tuple[np.ndarray, Pairs]:
    """Rows of three and a half strips, and two pairs of factors."""
    rng = np.random.default_rng(7)
    rows = round_to((rng.standard_normal((14, 512)) * 0.02).astype(np.float32), stored)
    pairs = []
    for r in (rank, 2):
        left = rng.standard_normal((14, r), dtype=np.float32) * np.float32(0.1)
        pairs.append((left, rng.standard_normal((r, 512), dtype=np.float32)))
    return rows, pairs


def call(
    rows: np.ndarray, pairs: Pairs, outtype: GGMLType, kinds: tuple[GGMLType, ...]
) -> tuple[float | None, list[bytes]]:
    outs = [np.zeros((rows.shape[0], kind.row_nbytes(rows.shape[1])), dtype=np.uint8) for kind in kinds]
    assert one_call.has_one_call(rows, outtype, kinds)
    largest = one_call.encode_in_one_call(rows, pairs, outtype, kinds, outs, Kept())
    return largest, [out.tobytes() for out in outs]


@pytest.mark.parametrize("stored", FLOATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("outtype", FLOATS, ids=lambda kind: kind.name)
def test_rounded_rows_and_blocks(stored: GGMLType, outtype: GGMLType) -> None:
    kinds = () if stored is outtype else (GGMLType.Q8_0, GGMLType.Q4_0)
    rows, pairs = given(stored)
    expected = to_float32(rows).copy()
    for left, right in pairs:
        add_low_rank(expected, left, right)
    rounded = round_to(expected, outtype)
    largest, found = call(rows, pairs, outtype, (*kinds, outtype))
    assert largest == np.abs(expected).max()
    assert found.pop() == rounded.tobytes()
    assert found == [ggml.quantize_rows(kind, to_float32(rounded)).tobytes() for kind in kinds]
    if stored is GGMLType.BF16:
        assert call(rows, pairs, outtype, kinds)[1] == found


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "+".join(kind.name for kind in kinds))
def test_every_format_in_every_place(kinds: tuple[GGMLType, ...]) -> None:
    rows, _ = given(GGMLType.BF16)
    rounded = to_float32(rows).astype(np.float16).astype(np.float32)
    found = call(rows, [], GGMLType.F16, kinds)[1]
    assert found == [ggml.quantize_rows(kind, rounded).tobytes() for kind in kinds]


def test_what_it_leaves_to_others() -> None:
    rows, _ = given(GGMLType.F32)
    assert not one_call.has_one_call(rows, GGMLType.F16, [GGMLType.Q4_K, GGMLType.Q8_0])
    assert not one_call.has_one_call(rows, GGMLType.F16, [GGMLType.Q8_0, GGMLType.Q8_0])
    assert not one_call.has_one_call(rows, GGMLType.Q8_0, [GGMLType.Q8_0])
    assert not one_call.has_one_call(rows[0], GGMLType.F16, [GGMLType.F16])
    rows[13, 500] = 1e-30  # no arithmetic decides how a block is encoded whose scale has no finite inverse
    assert call(rows, [], GGMLType.F32, (GGMLType.Q4_0,))[0] is None
    targets = [Target(GGMLType.Q4_0), Target(GGMLType.Q8_0, np.ones(512, dtype=np.float32))]
    found = Backend().encode(Rows(rows), GGMLType.F32, 512, targets)
    assert [bytes(data) for data in found.data] == [
        ggml.quantize_rows(kind, rows).tobytes() for kind in (GGMLType.Q4_0, GGMLType.Q8_0)
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4, -7e4])
def test_values_too_large_are_seen_in_any_strip(value: float) -> None:
    for row in (0, 5, 13):
        rows, _ = given(GGMLType.F32)
        rows[row, 100] = value
        found = Backend().encode(Rows(rows), GGMLType.F16, 512, [Target(GGMLType.Q8_0)])
        assert found.data == []
        np.testing.assert_equal(found.largest, abs(float(np.float32(value))))
