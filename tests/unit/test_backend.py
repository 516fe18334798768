"""The engine's steps on a device, with one that stands in for it; ranges, dealing and timelines."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from quantkit.kernels.validity import all_finite

from quantkit.engine import ranges
from quantkit.engine.backend import CPU, Backend
from quantkit.engine.device import Workers, choose_devices, choose_workers
from quantkit.engine.ranges import Scheduler, row_ranges
from quantkit.engine.stream import stream
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline, Timeline
from quantkit.errors import OutOfRangeError, QuantizationError, QuantkitError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels.formats import FORMATS
from quantkit.kernels.reference.encode import encode as specified
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

SHAPES = {"a": (320, 256), "b": (128, 512), "c": (1024, 256)}


class StandIn(Backend):
    """A device's habits on the processor: one buffer for everything that is read and fetched, encoders of its own."""

    def __init__(self, name: str = "worker", timeline: NoTimeline = NO_TIMELINE) -> None:
        super().__init__(name, timeline)
        self.buffer = torch.empty(1 << 20, dtype=torch.uint8)

    def memory(self, nbytes: int) -> torch.Tensor:
        return self.buffer[:nbytes]

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def fetch(self, tensor: torch.Tensor) -> memoryview:
        raw = tensor.contiguous().reshape(-1).view(torch.uint8)
        return self.buffer[: raw.numel()].copy_(raw).numpy().data

    def encode(self, kind: GGMLType, rows: torch.Tensor) -> torch.Tensor | None:
        return specified(kind, rows.float()) if kind in FORMATS else None


class Values:
    def __init__(self, values: dict[str, torch.Tensor]) -> None:
        self.values = values

    def rows(self, tensor: PlannedTensor, start: int, stop: int, backend: Backend) -> torch.Tensor:
        stored = self.values[tensor.name][start:stop]
        read = backend.memory(stored.numel() * 4).view(torch.float32).reshape(stored.shape)
        return backend.put(read.copy_(stored))

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        return None


@pytest.fixture
def on_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "CHUNK_WEIGHTS", 1 << 14)
    monkeypatch.setattr("quantkit.engine.stream.open_backend", lambda device, name, timeline: StandIn(name, timeline))


def tensors(base: GGMLType = GGMLType.F16) -> list[PlannedTensor]:
    return [PlannedTensor(name, name, shape, base) for name, shape in SHAPES.items()]


def output(kind: GGMLType, importance: dict[str, np.ndarray] | None = None) -> Output:
    places, offset = {}, 0
    for name, shape in SHAPES.items():
        places[name] = TensorSlot(kind, offset, kind.nbytes(shape))
        offset += places[name].nbytes
    return Output(kind.label, kind.label, b"", offset, places, importance or {})


@pytest.mark.parametrize("threads", [1, 5])
def test_a_buffer_used_again_and_again(tmp_path: Path, on_a_stand_in: None, threads: int) -> None:
    generator = torch.Generator().manual_seed(5)
    values = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    weights = {"b": torch.rand(512, generator=generator).numpy()}
    kinds = [GGMLType.Q8_0, GGMLType.F16, GGMLType.Q4_K, GGMLType.IQ4_NL]
    outputs = [*map(output, kinds), output(GGMLType.Q6_K, weights)]
    timeline = Timeline()
    digests = stream(tensors(), outputs, Values(values), tmp_path, workers=Workers(threads, timeline=timeline))
    for made in outputs:
        data = (tmp_path / made.file).read_bytes()
        for name, slot in made.tensors.items():
            rounded = values[name].half()
            raw = (
                rounded.numpy().tobytes()
                if slot.type is GGMLType.F16
                else ggml.quantize_rows(slot.type, rounded.float().numpy(), made.importance.get(name)).tobytes()
            )
            assert data[slot.offset : slot.offset + slot.nbytes] == raw
            assert digests[made.file][name] == hashlib.sha256(raw).hexdigest()
    timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} == {"round", "encode on the host", "write", "hash"}
    assert len({event["tid"] for event in events}) <= threads
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_values_that_do_not_fit_are_refused_there_too(tmp_path: Path, on_a_stand_in: None) -> None:
    values = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    values["c"][1000, 3] = 1e9
    with pytest.raises(QuantizationError, match=r"'c' has values up to .*, too large for q8_0"):
        stream(tensors(GGMLType.BF16), [output(GGMLType.Q8_0)], Values(values), tmp_path, workers=Workers(2))
    with pytest.raises(OutOfRangeError):
        stream(tensors(), [output(GGMLType.Q4_0)], Values(values), tmp_path, workers=Workers(2))


@pytest.mark.parametrize("kind", sorted(FORMATS), ids=lambda kind: kind.name)
def test_validity_is_what_ggml_says(kind: GGMLType) -> None:
    rows = torch.randn((4, 256), generator=torch.Generator().manual_seed(2)).numpy()
    blocks = torch.from_numpy(ggml.quantize_rows(kind, rows)).reshape(-1, kind.block_nbytes)
    assert all_finite(kind, blocks)
    for offset in range(0, kind.block_nbytes, 2):
        for half in (b"\x00\x7c", b"\x00\xfc", b"\x01\x7c", b"\xff\x7b"):
            broken = blocks.clone()
            broken[1, offset : offset + 2] = torch.frombuffer(bytearray(half), dtype=torch.uint8)
            assert all_finite(kind, broken) == ggml.is_valid(kind, broken.numpy().tobytes())


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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr("quantkit.engine.device.usable_processors", lambda: 100)
    every = tuple(torch.device("cuda", index) for index in range(3))
    assert choose_devices("auto") == choose_devices("cuda") == every
    assert choose_devices("cuda:1") == every[1:2]
    assert choose_devices("cpu") == (CPU.device,)
    assert (choose_workers("cuda", None).threads, choose_workers("cuda:0", None).threads) == (48, 16)
    assert (choose_workers("cpu", None).threads, choose_workers("cuda", 5).threads) == (100, 5)
    assert choose_workers("cuda", None).chunk == ranges.DEVICE_CHUNK_WEIGHTS
    with pytest.raises(QuantkitError, match="this machine has 3 CUDA devices"):
        choose_devices("cuda:3")
    with pytest.raises(QuantkitError, match="is unknown"):
        choose_devices("gpu")


def test_without_a_timeline_nothing_is_kept() -> None:
    assert CPU.span("read") is CPU.span("write", computes=True)
