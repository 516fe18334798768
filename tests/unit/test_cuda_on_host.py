"""A backend for CUDA devices and its kernels' source, where there is no device: on a processor's threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from quantkit.engine.backend import Backend, Target
from quantkit.engine.cuda_backend import CudaBackend
from quantkit.engine.rows import Rows
from quantkit.ggml.types import GGMLType
from quantkit.kernels.formats import PLAIN, WEIGHTED
from quantkit.kernels.rounding import round_to
from tests.support.host_device import HostKernels, use_host
from tests.support.host_encoders import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")

COLUMNS = 3 * 256  # a tile of 4096 weights ends within a row
RANDOM = np.random.default_rng(3)
ONE, OTHER = (RANDOM.random(COLUMNS, dtype=np.float32) ** 4 for _ in range(2))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return HostKernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def backend(kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaBackend]:
    use_host(kernels, monkeypatch)
    made = CudaBackend(0)
    with made.active():
        yield made


def rows_of(stored: GGMLType, ranks: tuple[int, ...], count: int = 11) -> Rows:
    rows = Rows(round_to((RANDOM.standard_normal((count, COLUMNS)) * 0.02).astype(np.float32), stored))
    for rank in ranks:
        left = (RANDOM.standard_normal((count, rank)) * 0.1).astype(np.float32)
        rows = rows.plus(left, (RANDOM.standard_normal((rank, COLUMNS)) * 0.05).astype(np.float32))
    return rows


def assert_the_processors(backend: CudaBackend, rows: Rows, outtype: GGMLType, targets: list[Target]) -> None:
    expected = Backend().encode(rows, outtype, COLUMNS, targets)
    found = backend.encode(rows, outtype, COLUMNS, targets)
    assert [bytes(data) for data in found.data] == [bytes(data) for data in expected.data]
    assert found.largest == pytest.approx(expected.largest, rel=0.01)  # there after rounding
    assert found.too_large_for == expected.too_large_for


def test_every_format(backend: CudaBackend) -> None:
    kinds = sorted(PLAIN)
    for chosen in (kinds[::3], kinds[1::3], kinds[2::3]):
        assert_the_processors(backend, rows_of(GGMLType.F16, ()), GGMLType.F16, [Target(kind) for kind in chosen])


def test_every_format_with_importances(backend: CudaBackend) -> None:
    kinds = sorted(WEIGHTED)
    for chosen in (kinds[::2], kinds[1::2]):
        targets = [Target(kind, ONE) for kind in chosen]
        assert_the_processors(backend, rows_of(GGMLType.F16, ()), GGMLType.F16, targets)


@pytest.mark.parametrize("stored", [GGMLType.BF16, GGMLType.F32], ids=lambda kind: kind.name)
@pytest.mark.parametrize("ranks", [(), (5, 2)], ids=str)
def test_some_outputs_with_importances_of_merged_rows(
    backend: CudaBackend, stored: GGMLType, ranks: tuple[int, ...]
) -> None:
    targets = [Target(GGMLType.Q4_K, ONE), Target(GGMLType.F16), Target(GGMLType.Q4_K), Target(GGMLType.Q4_K, OTHER)]
    targets += [Target(GGMLType.Q4_0, ONE), Target(GGMLType.Q8_0, ONE), Target(GGMLType.Q4_0)]
    assert_the_processors(backend, rows_of(stored, ranks), GGMLType.F16, targets)
    assert_the_processors(backend, rows_of(stored, ranks, 3), GGMLType.F16, targets)


def test_blocks_of_an_odd_number_of_bytes(backend: CudaBackend) -> None:
    for count in (1, 3):
        rows = Rows(rows_of(GGMLType.F16, (), count).stored[:, :96].copy())
        expected = Backend().encode(rows, GGMLType.F16, 96, [Target(GGMLType.MXFP4)])
        found = backend.encode(rows, GGMLType.F16, 96, [Target(GGMLType.MXFP4)])
        assert bytes(found.data[0]) == bytes(expected.data[0])


def test_more_outputs_than_a_kernel_has(backend: CudaBackend) -> None:
    targets = [Target(GGMLType.Q6_K, ONE * np.float32(scale)) for scale in range(1, 11)]
    assert_the_processors(backend, rows_of(GGMLType.F16, ()), GGMLType.F16, targets)


def test_a_grid_twice_in_a_kernel_and_again(backend: CudaBackend) -> None:
    targets = [Target(GGMLType.IQ3_S, ONE), Target(GGMLType.IQ3_XXS), Target(GGMLType.IQ3_S)]
    for count in (11, 1, 40):
        assert_the_processors(backend, rows_of(GGMLType.F16, (), count), GGMLType.F16, targets)


def test_importances_that_arithmetic_does_not_decide(backend: CudaBackend) -> None:
    targets = [Target(GGMLType.Q8_0), Target(GGMLType.Q6_K, ONE * np.float32(1e30)), Target(GGMLType.Q2_0, ONE)]
    assert_the_processors(backend, rows_of(GGMLType.F16, ()), GGMLType.F16, targets)
