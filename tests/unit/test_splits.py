"""IQ1: ties between the weights of a block, of which C does not say how they are sorted, and blocks without a split."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.engine.backend import Target
from quantkit.engine.cuda_backend import _has_kernel
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import lanes
from quantkit.kernels.formats import PLAIN, SPLIT_FORMATS
from quantkit.kernels.grids import grid_of
from quantkit.kernels.reference.encode import encode as specified
from tests.support.host_encoders import HostEncoders, compiler
from tests.support.weights import distributions, importances

pytest.importorskip("numba", reason="the extra 'fast' is not installed")
stable = pytest.mark.skipif(not ggml.sorts_stably(), reason="the C library sorts otherwise")
every_kind = pytest.mark.parametrize("kind", sorted(SPLIT_FORMATS), ids=lambda kind: kind.name)
RANDOM = np.random.default_rng(17)
COLUMNS = 512
# Of equal weights those with other importances give other sums, in another order.
IMPORTANCES = {how: importances(COLUMNS)[how] for how in ("random", "with zeros", "mostly zeros", "of many magnitudes")}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostEncoders:
    if compiler() is None:
        pytest.skip("there is no C++ compiler")
    return HostEncoders(tmp_path_factory.mktemp("host"))


def assert_ggml(kind: GGMLType, host: HostEncoders, rows: np.ndarray) -> None:
    for how, importance in {"none": None, **IMPORTANCES}.items():
        if importance is None and kind not in PLAIN:
            continue
        expected = ggml.quantize_rows(kind, rows, importance).tobytes()
        for encode in (specified, host.encode, lanes.encode):
            encoded = encode(kind, rows, importance)
            assert encoded is not None
            assert encoded.tobytes() == expected, f"{how}, {encode}"


@stable
@every_kind
@pytest.mark.parametrize("different", [1, 2, 3, 5, 9, 17])
def test_blocks_of_few_values(kind: GGMLType, different: int, host: HostEncoders) -> None:
    values = RANDOM.standard_normal(different).astype(np.float32) * np.float32(0.02)
    assert_ggml(kind, host, RANDOM.choice(values, (12, COLUMNS)))
    assert_ggml(kind, host, RANDOM.choice(np.append(values, np.float32([0, -0.0])), (12, COLUMNS)))


@stable
@every_kind
def test_weights_of_bfloat16(kind: GGMLType, host: HostEncoders) -> None:
    weights = RANDOM.standard_normal((24, COLUMNS), dtype=np.float32) * np.float32(0.02)
    assert_ggml(kind, host, (weights.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))


@stable
@every_kind
def test_one_weight_among_zeros(kind: GGMLType, host: HostEncoders) -> None:
    rows = np.zeros((64, COLUMNS), dtype=np.float32)
    rows[:, ::64] = np.diag(RANDOM.standard_normal(64).astype(np.float32)) @ np.eye(64, COLUMNS // 64, dtype=np.float32)
    for i, row in enumerate(rows):
        row[i], row[256 + 7 * i % 256] = (-1) ** i * 0.37, 1e-5 * i
    assert_ggml(kind, host, rows)


@stable
@every_kind
def test_blocks_next_to_nothing(kind: GGMLType, host: HostEncoders) -> None:
    """Blocks of zeros, and those that are no larger than what counts as nothing, between others."""
    rows = np.repeat(distributions(4)["weights"], 2, axis=1)
    nothing = np.float32(SPLIT_FORMATS[kind].nothing)
    for i, row in enumerate(np.resize(rows, (12, COLUMNS))):
        row.reshape(-1, 16)[i % 3 :: 3] = [0, nothing, np.nextafter(nothing, np.float32(0)), -nothing][i % 4]
    assert_ggml(kind, host, rows)


@every_kind
def test_zeros_have_the_first_code(kind: GGMLType) -> None:
    assert grid_of(kind).codes[0] == 0


@every_kind
def test_another_sort_leaves_all_to_ggml(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, importance = distributions(2)["weights"], importances()["random"]
    target = Target(kind, importance)
    assert _has_kernel(target, GGMLType.F16, 256) == ggml.sorts_stably()
    monkeypatch.setattr(ggml, "sorts_stably", lambda: False)
    assert lanes.encode(kind, rows, importance) is None
    assert not _has_kernel(target, GGMLType.F16, 256)


def test_what_a_stable_sort_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted backwards, equal values are not in their order."""

    class Library:
        @staticmethod
        def qsort(pairs: object, count: object, size: object, compare: object) -> None:
            pairs[:] = sorted(pairs, key=lambda pair: (pair.value, -pair.number))  # type: ignore[index, call-overload]

    monkeypatch.setattr(ggml, "_library", Library)
    ggml.sorts_stably.cache_clear()
    assert not ggml.sorts_stably()
    monkeypatch.setattr(ggml, "_library", object)
    ggml.sorts_stably.cache_clear()
    assert not ggml.sorts_stably()
    ggml.sorts_stably.cache_clear()
