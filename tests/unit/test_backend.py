"""What a worker does with a range, on the processor and on what stands in for a device; dealing, devices, timelines."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from quantkit.checkpoint.dtypes import BY_TYPE, Array, to_float32
from quantkit.checkpoint.tensor_file import Memory
from quantkit.engine import backend, ranges
from quantkit.engine.backend import Backend, Target
from quantkit.engine.cuda_backend import CudaBackend
from quantkit.engine.device import PROCESSOR, Device, Workers, choose_devices, choose_workers
from quantkit.engine.ranges import Scheduler, row_ranges
from quantkit.engine.rows import Rows
from quantkit.engine.stream import stream
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline, Timeline
from quantkit.errors import OutOfRangeError, QuantizationError, QuantkitError
from quantkit.files.output_file import Bytes
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import cuda
from quantkit.kernels.encode import too_large
from quantkit.kernels.formats import GRID_SHAPES, PLAIN
from quantkit.kernels.rounding import LARGEST, SMALLEST, round_to
from quantkit.plan.values import Output, PlannedTensor, TensorSlot
from tests.support.bits import as_array
from tests.support.sums import low_rank_sum

SHAPES = {"a": (320, 256), "b": (128, 512), "c": (1024, 256)}


class StandIn(CudaBackend):
    """A device's habits on the processor: what it makes of a range lies in one buffer, which the next overwrites."""

    def __init__(self, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        Backend.__init__(self, name, timeline)
        self.buffers = {name: np.empty(1 << 20, dtype=np.uint8) for name in ("in", "out")}
        self.ran: list[tuple[GGMLType, GGMLType]] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        yield

    def memory(self, nbytes: int) -> np.ndarray:
        return self.buffers["in"][:nbytes]

    def _run(
        self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target], *, keeps_rounded: bool
    ) -> tuple[float | None, Array, list[memoryview]]:
        stored = next(kind for kind, dtype in BY_TYPE.items() if dtype == rows.stored.dtype)
        self.ran.append((stored, outtype))
        assert columns == rows.stored.shape[-1]
        assert len(targets) <= cuda.FORMATS_PER_KERNEL
        with np.errstate(over="ignore"):
            rounded = round_to(rows.merged(), outtype)
        floats = to_float32(rounded)
        sizes = np.abs(floats[floats != 0])
        if not (sizes <= LARGEST).all() or not (sizes >= SMALLEST).all():
            return None, rounded, []
        encoded = [ggml.quantize_rows(target.type, floats, target.importance) for target in targets]
        parts = [rounded if keeps_rounded else rounded[:0], *encoded]
        places = [0, *np.cumsum([part.nbytes for part in parts]).tolist()]
        buffer = self.buffers["out"]
        for at, part in zip(places, parts, strict=False):
            buffer[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
        pieces = [buffer[start:stop] for start, stop in pairwise(places)]
        return float(sizes.max(initial=0)), pieces[0].view(rounded.dtype), [piece.data for piece in pieces[1:]]


class Values:
    """A source that reads into the memory it is given, and has factors to add."""

    def __init__(self, values: dict[str, torch.Tensor]) -> None:
        self.values = values
        generator = torch.Generator().manual_seed(9)
        self.factors = {
            name: tuple(0.1 * torch.randn(size, generator=generator) for size in ((len(value), 4), (4, value.shape[1])))
            for name, value in values.items()
        }

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory) -> Rows:
        stored = as_array(self.values[tensor.name][start:stop])
        read = memory(stored.nbytes).view(stored.dtype).reshape(stored.shape)
        read[...] = stored
        left, right = (factor.numpy() for factor in self.factors[tensor.name])
        return Rows(read).plus(left[start:stop], right)

    def merged(self, name: str) -> torch.Tensor:
        return low_rank_sum(self.values[name], *self.factors[name], 1.0)

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        return None


@pytest.fixture(params=[Backend, StandIn], ids=["processor", "stand-in"])
def backends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Backend]:
    """The backends of the workers, made as they are asked for; ranges are small."""
    made: list[Backend] = []

    def make(device: Device, name: str, timeline: NoTimeline) -> Backend:
        made.append(request.param(name, timeline))
        return made[-1]

    monkeypatch.setattr(ranges, "CHUNK_WEIGHTS", 1 << 14)
    monkeypatch.setattr("quantkit.engine.stream.open_backend", make)
    return made


def tensors(base: GGMLType = GGMLType.F16) -> list[PlannedTensor]:
    return [PlannedTensor(name, name, shape, base) for name, shape in SHAPES.items()]


def output(kind: GGMLType, importance: dict[str, np.ndarray] | None = None) -> Output:
    places, offset = {}, 0
    for name, shape in SHAPES.items():
        places[name] = TensorSlot(kind, offset, kind.nbytes(shape))
        offset += places[name].nbytes
    return Output(f"{kind.label}-{len(importance or {})}", kind.label, b"", offset, places, importance or {})


# The last has no kernel.
KINDS = [GGMLType.Q8_0, GGMLType.F16, GGMLType.Q4_K, GGMLType.Q2_0]


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        (torch.bfloat16, ()),
        (torch.float16, ()),
        (torch.float32, sorted(PLAIN - set(KINDS))),  # more than one kernel takes
    ],
    ids=["bf16", "f16", "f32-many"],
)
def test_a_buffer_used_again_and_again(
    tmp_path: Path, backends: list[Backend], threads: int, more: Sequence[GGMLType], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    source = Values({name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()})
    weights = {"b": torch.rand(512, generator=generator).numpy()}
    outputs = [*map(output, [*KINDS, *more]), output(GGMLType.Q6_K, weights), output(GGMLType.Q8_0, weights)]
    timeline = Timeline()
    digests = stream(tensors(), outputs, source, tmp_path, workers=Workers(threads, timeline=timeline))
    for made in outputs:
        data = (tmp_path / made.file).read_bytes()
        for name, slot in made.tensors.items():
            rounded = source.merged(name).half()
            raw = (
                rounded.numpy().tobytes()
                if slot.type is GGMLType.F16
                else ggml.quantize_rows(slot.type, rounded.float().numpy(), made.importance.get(name)).tobytes()
            )
            assert data[slot.offset : slot.offset + slot.nbytes] == raw
            assert digests[made.file][name] == hashlib.sha256(raw).hexdigest()
    timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    on_device = {"on the device"} if any(isinstance(each, StandIn) for each in backends) else set()
    assert {event["name"] for event in events if event["ph"] == "X"} == {
        *("read", "merge and round", "encode", "write", "hash"),
        *on_device,
    }
    assert len({event["tid"] for event in events}) <= threads
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")
    stored = OUTTYPES[dtype]
    ran = {types for each in backends for types in getattr(each, "ran", ())}
    assert ran <= {(stored, GGMLType.F16)}
    assert bool(ran) is bool(on_device)


def test_values_that_do_not_fit_are_refused(tmp_path: Path, backends: list[Backend]) -> None:
    values = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    values["c"][1000, 3] = 1e9
    with pytest.raises(QuantizationError, match=r"'c' has values up to 1e\+09, too large for q8_0"):
        stream(tensors(GGMLType.BF16), [output(GGMLType.Q8_0)], Values(values), tmp_path, workers=Workers(2))
    with pytest.raises(OutOfRangeError, match=r"'c' has a value of 1e\+09, too large for f16"):
        stream(tensors(), [output(GGMLType.Q4_0)], Values(values), tmp_path, workers=Workers(2))


STRIPS = [1, 1000, 1 << 20]


@pytest.mark.parametrize("make", [Backend, StandIn])
@pytest.mark.parametrize("kind", sorted(GRID_SHAPES), ids=lambda kind: kind.name)
def test_values_with_which_libggml_would_end_the_process(
    kind: GGMLType, make: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors overflow, and no point of a grid is the nearest."""
    weights = np.ones(256, dtype=np.float32)
    for strip in STRIPS:
        monkeypatch.setattr(backend, "_STRIP_WEIGHTS", strip)
        for largest, times in ((1e30, 1.0), (3e38, 0.0), (1.5e9, 1.0), (9e8, 1e20)):
            rows = np.ones((3, 256), dtype=np.float32)
            rows[1, 3:7] = largest, -largest, 0, largest
            targets = [Target(GGMLType.F32), Target(kind, weights * np.float32(times)), Target(GGMLType.Q8_0)]
            found = make().encode(Rows(rows), GGMLType.F32, 256, targets)
            assert (found.largest, found.too_large_for) == (float(np.float32(largest)), kind)


@pytest.mark.parametrize("kind", sorted(GRID_SHAPES), ids=lambda kind: kind.name)
def test_the_largest_values_that_libggml_gets_for_a_grid(kind: GGMLType) -> None:
    """It would abort if these overflowed: each has the least sum, error or scale where one could."""
    random = np.random.default_rng(2)
    for largest, most in ((9.9e8, 0.1e18), (3e7, 1e20), (1e-3, 9e37), (9.9e8, 0.0)):
        rows = (random.choice([-1, 1], (64, 256)) * largest * random.random((64, 256)) ** 4).astype(np.float32)
        rows[:32] = np.sign(rows[:32]) * np.float32(largest)
        rows[::2, ::3] *= np.float32(1e-9)
        weights = (most * random.random(256) ** 8).astype(np.float32)
        weights[::7], weights[::5] = most, 0
        assert not too_large(kind, largest, weights)
        ggml.quantize_rows(kind, rows, weights)
        if kind in PLAIN:
            ggml.quantize_rows(kind, rows)


@pytest.mark.parametrize("make", [Backend, StandIn])
def test_values_that_no_kernel_decides_are_encoded_all_the_same(make: Callable[[], Backend]) -> None:
    rows = torch.randn((64, 256), generator=torch.Generator().manual_seed(3))
    rows[5, 7], rows[9, 200] = 1e-30, 70000.0
    targets = [Target(GGMLType.Q4_K), Target(GGMLType.F32), Target(GGMLType.Q8_0)]
    encoded = make().encode(Rows(rows.numpy()), GGMLType.F32, 256, targets)
    expected = [ggml.quantize_rows(kind, rows.numpy()) for kind in (GGMLType.Q4_K, GGMLType.Q8_0)]
    assert [bytes(data) for data in encoded.data] == [
        expected[0].tobytes(),
        rows.numpy().tobytes(),
        expected[1].tobytes(),
    ]
    assert (encoded.largest, encoded.too_large_for) == (70000.0, None)


def data_of(found: Sequence[Bytes]) -> list[bytes]:
    return [bytes(data) for data in found]


OUTTYPES = {torch.float16: GGMLType.F16, torch.bfloat16: GGMLType.BF16, torch.float32: GGMLType.F32}


@pytest.mark.parametrize("dtype", OUTTYPES)
@pytest.mark.parametrize("outtype", OUTTYPES.values(), ids=lambda kind: kind.label)
def test_strips_and_ranges_do_not_show(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, outtype: GGMLType) -> None:
    """What is cut for the cache's sake, and for the workers', is the same in every bit as what is not cut."""
    generator = torch.Generator().manual_seed(4)
    stored = torch.randn((70, 256), generator=generator).to(dtype)
    factors = [[torch.randn(size, generator=generator) for size in ((70, rank), (rank, 256))] for rank in (3, 8)]
    rows, expected = Rows(as_array(stored)), stored.float()
    for left, right in factors:
        rows, expected = rows.plus(left.numpy(), right.numpy()), low_rank_sum(expected, left, right, 1.0)
    weights = torch.rand(256, generator=generator).numpy()
    targets = [
        *(Target(kind) for kind in (GGMLType.Q8_0, outtype, GGMLType.Q4_K, GGMLType.IQ4_XS)),
        Target(GGMLType.Q5_K, weights),
    ]
    rounded = expected.to(next(theirs for theirs, kind in OUTTYPES.items() if kind is outtype))
    floats = rounded.float().numpy()
    wanted = [
        as_array(rounded).tobytes() if target.type is outtype
        else ggml.quantize_rows(target.type, floats, target.importance).tobytes()
        for target in targets
    ]  # fmt: skip
    for strip in STRIPS:
        monkeypatch.setattr(backend, "_STRIP_WEIGHTS", strip)
        whole = Backend().encode(rows, outtype, 256, targets)
        assert data_of(whole.data) == wanted
        assert (whole.largest, whole.too_large_for) == (float(expected.abs().max()), None)
        for step in (7, 64):
            cuts = [
                Backend().encode(rows.part(slice(at, at + step)), outtype, 256, targets) for at in range(0, 70, step)
            ]
            joined = [b"".join(parts) for parts in zip(*(data_of(cut.data) for cut in cuts), strict=True)]
            assert joined == wanted
            assert max(cut.largest for cut in cuts) == whole.largest


@pytest.mark.parametrize("strip", STRIPS)
def test_what_is_wrong_does_not_depend_on_strips(monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    monkeypatch.setattr(backend, "_STRIP_WEIGHTS", strip)
    rows = np.ones((70, 256), dtype=np.float32)
    rows[3, 3], rows[60, 9] = 1e5, -2e5
    found = Backend().encode(Rows(rows), GGMLType.F16, 256, [Target(GGMLType.Q8_0)])
    assert (found.data, found.largest, found.too_large_for) == ([], 2e5, None)
    rows[65, 0] = np.nan
    found = Backend().encode(Rows(rows), GGMLType.F16, 256, [Target(GGMLType.Q8_0)])
    assert found.data == []
    assert np.isnan(found.largest)
    # The first type in the order of the outputs, wherever it is met: a scale of q8_0 holds 127 times 65504.
    rows = np.ones((70, 256), dtype=np.float32)
    rows[3, 3], rows[60, 9] = 1e6, 1e8
    found = Backend().encode(Rows(rows), GGMLType.F32, 256, [Target(GGMLType.Q8_0), Target(GGMLType.Q4_0)])
    assert (len(found.data), found.largest, found.too_large_for) == (2, 1e8, GGMLType.Q8_0)


def test_vectors_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(-1, 1, 333, dtype=np.float32)
    for strip in STRIPS:
        monkeypatch.setattr(backend, "_STRIP_WEIGHTS", strip)
        found = Backend().encode(Rows(values), GGMLType.F16, 1, [Target(GGMLType.F16)])
        assert data_of(found.data) == [values.astype(np.float16).tobytes()]


def test_rows_that_are_quantized_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied, and decoded only where another type is asked for: some types cannot be."""
    rows = np.random.default_rng(6).standard_normal((70, 256), dtype=np.float32)
    stored = ggml.quantize_rows(GGMLType.Q8_0, rows).reshape(70, -1)
    again = ggml.quantize_rows(GGMLType.Q4_K, ggml.dequantize_rows(GGMLType.Q8_0, stored.tobytes(), 256))
    for strip in STRIPS:
        monkeypatch.setattr(backend, "_STRIP_WEIGHTS", strip)
        found = Backend().encode(Rows(stored), GGMLType.Q8_0, 256, [Target(GGMLType.Q8_0), Target(GGMLType.Q4_K)])
        assert data_of(found.data) == [stored.tobytes(), again.tobytes()]
    monkeypatch.setattr(ggml, "dequantize_rows", None)
    found = Backend().encode(Rows(stored), GGMLType.Q8_0, 256, [Target(GGMLType.Q8_0)])
    assert data_of(found.data) == [stored.tobytes()]


def test_memory_is_one_buffer_that_grows() -> None:
    worker = Backend()
    first = worker.memory(100)
    assert first.nbytes == 100
    assert np.shares_memory(first, worker.memory(60))
    assert worker.memory(60).nbytes == 60
    assert worker.memory(200).nbytes == 200


def test_each_range_is_dealt_out_once_and_in_order() -> None:
    chosen, dealt, lock = tensors(), [], threading.Lock()
    deal = Scheduler(chosen, 1 << 14)

    def work(number: int) -> None:
        while (piece := deal.next(number)) is not None:
            with lock:
                dealt.append((number, piece))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {piece for _, piece in dealt} == {piece for tensor in chosen for piece in row_ranges(tensor, 1 << 14)}
    assert len(dealt) == len({piece for _, piece in dealt})


def test_a_worker_keeps_to_its_tensor_and_helps_at_the_end() -> None:
    deal = Scheduler(tensors(), 1 << 14)  # a: 5 ranges, b: 2, c: 16
    first = [deal.next(number) for number in (0, 1, 0, 1)]
    assert [(piece.tensor.name, piece.index) for piece in first if piece] == [("c", 0), ("a", 0), ("c", 1), ("a", 1)]
    rest = []
    while piece := deal.next(1):
        rest.append((piece.tensor.name, piece.index))
    assert rest == [*(("a", i) for i in (2, 3, 4)), *(("b", i) for i in range(2)), *(("c", i) for i in range(2, 16))]
    assert deal.next(0) is None


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.engine.device.cuda_driver.device_count", lambda: (3, ""))
    monkeypatch.setattr("quantkit.engine.device.usable_processors", lambda: 100)
    every = tuple(Device("cuda", index) for index in range(3))
    assert [str(device) for device in (PROCESSOR, *every)] == ["cpu", "cuda:0", "cuda:1", "cuda:2"]
    assert choose_devices("auto") == choose_devices("cuda") == every
    assert choose_devices("cuda:1") == every[1:2]
    assert choose_devices("cpu") == (PROCESSOR,)
    assert (choose_workers("cuda", None).threads, choose_workers("cuda:0", None).threads) == (36, 12)
    assert (choose_workers("cpu", None).threads, choose_workers("cuda", 5).threads) == (100, 5)
    assert choose_workers("cuda", None).chunk == ranges.DEVICE_CHUNK_WEIGHTS
    with pytest.raises(QuantkitError, match="this machine has 3 CUDA devices"):
        choose_devices("cuda:3")
    with pytest.raises(QuantkitError, match="is unknown"):
        choose_devices("gpu")
    monkeypatch.setattr("quantkit.engine.device.cuda_driver.device_count", lambda: (0, "there is no driver"))
    assert choose_devices("auto") == (PROCESSOR,)
    with pytest.raises(QuantkitError, match=r"this machine has 0 CUDA devices \(there is no driver\)"):
        choose_devices("cuda")


def test_without_a_timeline_nothing_is_kept() -> None:
    assert Backend().span("read") is Backend().span("write")
