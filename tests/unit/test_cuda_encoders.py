"""The kernels on a graphics card: ggml's bytes, and the specification's there. Needs CUDA."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from quantkit.checkpoint.dtypes import GGML_TYPES
from quantkit.errors import QuantkitError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import cuda
from quantkit.kernels.arithmetic import decided
from quantkit.kernels.cuda import CudaEncoders
from quantkit.kernels.formats import FORMATS
from quantkit.kernels.nvrtc import NVRTC
from quantkit.kernels.reference.encode import encode as specified
from tests.support.weights import distributions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
KINDS = sorted(FORMATS)
# An odd number of super-blocks, more than a thread block takes.
DISTRIBUTIONS = distributions(1037)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@cache
def encoders(dtype: torch.dtype, index: int = 0) -> CudaEncoders:
    return CudaEncoders(torch.device("cuda", index), KINDS, GGML_TYPES[dtype])


def inputs(dtype: torch.dtype, index: int = 0) -> dict[str, torch.Tensor]:
    """Values as the kernels take them, but for those that are left to ggml."""
    moved = {name: torch.from_numpy(rows).to(f"cuda:{index}", dtype) for name, rows in DISTRIBUTIONS.items()}
    return {name: rows for name, rows in moved.items() if decided(rows)}


def by_ggml(kind: GGMLType, rows: torch.Tensor) -> np.ndarray:
    return ggml.quantize_rows(kind, rows.float().cpu().numpy()).reshape(-1, kind.block_nbytes)


@every_dtype
@every_kind
def test_a_kernel_is_ggml(kind: GGMLType, dtype: torch.dtype) -> None:
    found = inputs(dtype)
    assert len(found) >= len(DISTRIBUTIONS) - 2
    for name, rows in found.items():
        differing = (encoders(dtype).encode(kind, rows).cpu().numpy() != by_ggml(kind, rows)).any(axis=1)
        assert not differing.any(), f"{name}: {differing.sum()} of {differing.size} blocks differ"


@every_kind
def test_the_specification_on_the_device_is_ggml(kind: GGMLType) -> None:
    for name, rows in inputs(torch.float16).items():
        differing = (specified(kind, rows.float()).cpu().numpy() != by_ggml(kind, rows)).any(axis=1)
        assert not differing.any(), f"{name}: {differing.sum()} of {differing.size} blocks differ"


@every_kind
def test_any_number_of_blocks(kind: GGMLType) -> None:
    rows = inputs(torch.float16)["weights"]
    for count in (1, 7, 15, 16, 17, 127, 129):
        for some in (rows[:count], rows[count : 2 * count]):
            encoded = encoders(torch.float16).encode(kind, some)
            assert np.array_equal(encoded.cpu().numpy(), by_ggml(kind, some))
    assert encoders(torch.float16).encode(kind, rows[:0]).shape == (0, kind.block_nbytes)


def test_threads_and_streams() -> None:
    rows, results = inputs(torch.float16)["heavy tails"], {}

    def work(number: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            results[number] = [encoders(torch.float16).encode(KINDS[number], rows).cpu().numpy() for _ in range(5)]

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(KINDS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, kind in enumerate(KINDS):
        expected = by_ggml(kind, rows)
        assert all(np.array_equal(found, expected) for found in results[number])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_the_second_device() -> None:
    rows = inputs(torch.float16, 1)["weights"]
    encoded = encoders(torch.float16, 1).encode(GGMLType.Q4_K, rows)
    assert encoded.device.index == 1
    assert np.array_equal(encoded.cpu().numpy(), by_ggml(GGMLType.Q4_K, rows))


def test_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device, rows = torch.device("cuda", 0), inputs(torch.float16)["weights"]
    CudaEncoders(device, [GGMLType.Q8_0], GGMLType.F16)
    (kept,) = (tmp_path / "quantkit" / "kernels").iterdir()
    # A damaged file is compiled again.
    kept.write_bytes(kept.read_bytes()[:100])
    CudaEncoders(device, [GGMLType.Q8_0], GGMLType.F16)
    assert cuda.read_kept(kept) is not None
    # A whole one is not.
    monkeypatch.setattr(NVRTC, "compile", None)
    again = CudaEncoders(device, [GGMLType.Q8_0], GGMLType.F16)
    assert np.array_equal(again.encode(GGMLType.Q8_0, rows).cpu().numpy(), by_ggml(GGMLType.Q8_0, rows))


def test_what_does_not_compile_is_refused() -> None:
    with pytest.raises(QuantkitError, match=r"do not compile: .*error"):
        NVRTC().compile("nonsense", {}, ())
