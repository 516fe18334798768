"""The kernel of a range on a CUDA device gives the bytes of the processor and of ggml. Needs a device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quantkit.checkpoint.dtypes import to_float32
from quantkit.engine.backend import Backend, Target
from quantkit.engine.cuda_backend import CudaBackend
from quantkit.engine.rows import Rows
from quantkit.errors import QuantkitError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import cuda
from quantkit.kernels.cache import read_kept
from quantkit.kernels.cuda_driver import device_count, open_device
from quantkit.kernels.cuda_source import Variant
from quantkit.kernels.formats import PLAIN, WEIGHTED
from quantkit.kernels.rounding import OVERFLOW, decided, round_to
from tests.support.weights import distributions, importances

pytestmark = pytest.mark.skipif(device_count()[0] == 0, reason=f"no CUDA device: {device_count()[1]}")

FLOATS = [GGMLType.F16, GGMLType.BF16, GGMLType.F32]
# An odd number of super-blocks, more than a thread block takes.
DISTRIBUTIONS = distributions(1037)
every_kind = pytest.mark.parametrize("kind", sorted(PLAIN), ids=lambda kind: kind.name)
every_weighted = pytest.mark.parametrize("kind", sorted(WEIGHTED), ids=lambda kind: kind.name)
stored_types = pytest.mark.parametrize("stored", FLOATS, ids=lambda kind: kind.name)
outtypes = pytest.mark.parametrize("outtype", FLOATS, ids=lambda kind: kind.name)


@pytest.fixture
def backend() -> Iterator[CudaBackend]:
    made = CudaBackend(0)
    with made.active():
        yield made


def on_device(backend: CudaBackend, rows: Rows, outtype: GGMLType, kinds: list[GGMLType]) -> list[bytes]:
    columns = rows.stored.shape[1]
    found = backend.encode(rows, outtype, columns, [Target(kind) for kind in kinds])
    assert found.too_large_for is None
    return [bytes(data) for data in found.data]


def never(*_: object) -> None:
    raise AssertionError("the processor steps in")


@outtypes
@every_kind
def test_a_kernel_is_ggml(
    backend: CudaBackend, kind: GGMLType, outtype: GGMLType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "encode", never)
    done = 0
    for name, values in DISTRIBUTIONS.items():
        if not np.abs(values).max() < OVERFLOW[outtype]:
            continue
        rounded = to_float32(round_to(values, outtype))
        if not decided(rounded):
            continue
        done += 1
        encoded, kept = on_device(backend, Rows(values), outtype, [kind, outtype])
        assert kept == round_to(values, outtype).tobytes(), name
        got = np.frombuffer(encoded, dtype=np.uint8).reshape(-1, kind.block_nbytes)
        differing = (got != ggml.quantize_rows(kind, rounded).reshape(got.shape)).any(axis=1)
        assert not differing.any(), f"{name}: {differing.sum()} of {differing.size} blocks differ"
    assert done >= len(DISTRIBUTIONS) - 2


@stored_types
@outtypes
@pytest.mark.parametrize("ranks", [(), (16,), (1, 64), (8, 3, 5, 2), (2, 2, 2, 2, 2)], ids=str)
def test_merged_rows_are_the_processors(
    backend: CudaBackend, stored: GGMLType, outtype: GGMLType, ranks: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(len(ranks))
    for count, columns in ((64, 4096), (37, 256), (5, 96)):
        rows = Rows(round_to((rng.standard_normal((count, columns)) * 0.02).astype(np.float32), stored))
        for rank in ranks:
            left = (rng.standard_normal((count, rank)) * 0.1).astype(np.float32)
            rows = rows.plus(left, (rng.standard_normal((rank, columns)) * 0.05).astype(np.float32))
        kinds = [GGMLType.Q8_0, GGMLType.Q4_0, outtype] + ([GGMLType.Q4_K, GGMLType.Q6_K] if columns % 256 == 0 else [])
        expected = Backend().encode(rows, outtype, columns, [Target(kind) for kind in kinds])
        assert on_device(backend, rows, outtype, kinds) == [bytes(data) for data in expected.data]


def test_any_number_of_blocks(backend: CudaBackend) -> None:
    values = DISTRIBUTIONS["weights"]
    kinds = [GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.Q8_0]
    for count in (1, 7, 15, 16, 17, 127, 129):
        rows = Rows(values[:count])
        expected = Backend().encode(rows, GGMLType.F16, 256, [Target(kind) for kind in kinds])
        assert on_device(backend, rows, GGMLType.F16, kinds) == [bytes(data) for data in expected.data]


@outtypes
@every_weighted
def test_a_kernel_is_ggml_with_importances(
    backend: CudaBackend, kind: GGMLType, outtype: GGMLType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "encode", never)
    for columns in (256, 17 * 256):  # of which rows end within a tile
        weights = importances(columns)
        for name, values in DISTRIBUTIONS.items():
            if not np.abs(values).max() < OVERFLOW[outtype]:
                continue
            rows = np.ascontiguousarray(values[: 5 * 17].reshape(-1, columns))
            rounded = to_float32(round_to(rows, outtype))
            if not decided(rounded):
                continue
            for how, importance in weights.items():
                found = backend.encode(Rows(rows), outtype, columns, [Target(kind, importance)])
                got = np.frombuffer(found.data[0], dtype=np.uint8).reshape(-1, kind.block_nbytes)
                differing = (got != ggml.quantize_rows(kind, rounded, importance).reshape(got.shape)).any(axis=1)
                assert not differing.any(), f"{name}, {how}: {differing.sum()} of {differing.size} blocks differ"


@stored_types
@outtypes
@pytest.mark.parametrize("ranks", [(), (16,), (3, 2)], ids=str)
def test_merged_rows_with_importances_are_the_processors(
    backend: CudaBackend, stored: GGMLType, outtype: GGMLType, ranks: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(len(ranks))
    rows = Rows(round_to((rng.standard_normal((70, 2048)) * 0.02).astype(np.float32), stored))
    for rank in ranks:
        left = (rng.standard_normal((70, rank)) * 0.1).astype(np.float32)
        rows = rows.plus(left, (rng.standard_normal((rank, 2048)) * 0.05).astype(np.float32))
    one, other = (rng.random(2048, dtype=np.float32) ** 4 for _ in range(2))
    targets = [Target(GGMLType.Q4_K, one), Target(outtype), Target(GGMLType.Q4_K), Target(GGMLType.Q4_K, other)]
    targets += [Target(GGMLType.Q4_0, one), Target(GGMLType.Q5_1, one), Target(GGMLType.Q8_0, one)]
    targets += [Target(GGMLType.Q4_0), Target(GGMLType.Q6_K, one), Target(GGMLType.Q3_K, one)]  # more than a kernel has
    targets += [Target(GGMLType.IQ3_S, one), Target(GGMLType.IQ4_XS, other), Target(GGMLType.IQ4_NL, one)]
    for some in (targets, targets[-3:]):
        expected = Backend().encode(rows, outtype, 2048, some)
        found = backend.encode(rows, outtype, 2048, some)
        assert [bytes(data) for data in found.data] == [bytes(data) for data in expected.data]


def test_importances_that_arithmetic_does_not_decide(backend: CudaBackend) -> None:
    rows, importance = Rows(DISTRIBUTIONS["weights"]), np.full(256, 1e30, dtype=np.float32)
    targets = [Target(GGMLType.Q8_0), Target(GGMLType.Q4_K, importance), Target(GGMLType.Q2_0)]
    expected = Backend().encode(rows, GGMLType.F16, 256, targets)
    found = backend.encode(rows, GGMLType.F16, 256, targets)
    assert [bytes(data) for data in found.data] == [bytes(data) for data in expected.data]


@pytest.mark.parametrize("value", [np.nan, np.inf, 65520.0])
def test_values_out_of_range_are_found(backend: CudaBackend, value: float) -> None:
    values = DISTRIBUTIONS["weights"].copy()
    values[700, 3] = -value
    found = backend.encode(Rows(values), GGMLType.F16, 256, [Target(GGMLType.Q8_0)])
    assert found.data == []
    assert not found.largest < OVERFLOW[GGMLType.F16]


def test_values_that_arithmetic_does_not_decide(backend: CudaBackend) -> None:
    values = DISTRIBUTIONS["weights"].copy()
    values[3, 200] = 1e-26
    assert not decided(values)
    (encoded,) = on_device(backend, Rows(values), GGMLType.F32, [GGMLType.Q4_K])
    assert encoded == ggml.quantize_rows(GGMLType.Q4_K, values).tobytes()


def test_threads_share_a_device() -> None:
    values, results = DISTRIBUTIONS["heavy tails"], {}
    kinds = sorted(PLAIN)

    def work(number: int) -> None:
        backend = CudaBackend(0)
        with backend.active():
            results[number] = [on_device(backend, Rows(values), GGMLType.F16, [kinds[number]]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(kinds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rounded = to_float32(round_to(values, GGMLType.F16))
    for number, kind in enumerate(kinds):
        assert results[number] == [[ggml.quantize_rows(kind, rounded).tobytes()]] * 5


@pytest.mark.skipif(device_count()[0] < 2, reason="there is one CUDA device")
def test_the_second_device() -> None:
    backend, values = CudaBackend(1), DISTRIBUTIONS["weights"]
    with backend.active():
        (encoded,) = on_device(backend, Rows(values), GGMLType.F16, [GGMLType.Q4_K])
    assert encoded == ggml.quantize_rows(GGMLType.Q4_K, to_float32(round_to(values, GGMLType.F16))).tobytes()


def test_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "_functions", {})
    device, variant = open_device(0), Variant(GGMLType.F16, GGMLType.F16, (GGMLType.Q8_0,))
    assert not cuda.is_compiled(device, variant)
    cuda.kernel(device, variant)
    assert cuda.is_compiled(device, variant)
    (kept,) = (tmp_path / "quantkit" / "kernels").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])  # a damaged file is compiled again
    monkeypatch.setattr(cuda, "_functions", {})
    cuda.kernel(device, variant)
    assert read_kept(kept) is not None
    monkeypatch.setattr(cuda, "_functions", {})
    monkeypatch.setattr(cuda, "_compile", None)  # a whole one is not
    cuda.kernel(device, variant)


def test_what_does_not_compile_is_refused() -> None:
    with pytest.raises(QuantkitError, match=r"do not compile: .*error"):
        cuda._compile("nonsense", {}, ())
