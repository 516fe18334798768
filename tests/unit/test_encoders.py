"""Encoders are loaded before the stream: one matrix of every kind, in the way that a worker encodes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from quantkit.checkpoint.tensor_file import Memory
from quantkit.engine import encoders
from quantkit.engine.backend import Backend, Encoded, Target
from quantkit.engine.device import Device, Workers
from quantkit.engine.rows import Rows
from quantkit.errors import QuantkitError
from quantkit.ggml.types import GGMLType
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

BASE = GGMLType.BF16


class Source:
    """Even steps, of which a source of large matrices must not make many."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory) -> Rows:
        self.asked.append((tensor.name, stop - start))
        return Rows(np.linspace(-1, 1, (stop - start) * tensor.columns, dtype=np.float32).reshape(-1, tensor.columns))

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        return None


def output(types: dict[str, GGMLType], weighted: Sequence[str] = ()) -> Output:
    slots = {name: TensorSlot(kind, 0, 0) for name, kind in types.items()}
    importance = {name: np.ones(512, dtype=np.float32) for name in weighted}
    return Output("a.gguf", "a", header=b"", nbytes=0, tensors=slots, importance=importance)


def test_one_matrix_of_every_kind() -> None:
    shapes = {"norm": (512,), "small": (64, 512), "large": (8192, 512), "other": (4096, 512), "weighted": (2048, 512)}
    tensors = [PlannedTensor(name, name, shape, BASE) for name, shape in shapes.items()]
    types = dict.fromkeys(shapes, GGMLType.Q8_0) | {"norm": GGMLType.F32, "other": GGMLType.Q4_K}
    found = encoders.kinds(tensors, [output(types, ["weighted"]), output({"large": GGMLType.Q8_0})])
    assert [tensor.name for tensor in found] == ["large", "other", "weighted", "small"]
    assert [tensor.name for tensor in encoders.kinds(tensors, [output(types)])] == ["large", "other"]


def test_few_rows_of_each_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[tuple[str, tuple[int, ...], list[GGMLType], bool]] = []

    class Recorded(Backend):
        @contextmanager
        def active(self) -> Any:
            with super().active():
                yield
            encoded.append(("left", (), [], False))

        def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
            kinds, weighted = [one.type for one in targets], any(one.importance is not None for one in targets)
            encoded.append((self.name, rows.stored.shape, kinds, weighted))
            return super().encode(rows, outtype, columns, targets)

    monkeypatch.setattr(encoders, "open_backend", lambda device, name, timeline: Recorded(name, timeline))
    large = PlannedTensor("large", "large", (8192, 512), BASE, unit=96)
    short = PlannedTensor("short", "short", (100, 512), BASE)
    wanted = [output({"large": GGMLType.Q4_0, "short": GGMLType.Q4_K}, ["short"])]
    source, done = Source(), []
    workers = Workers(4, (Device("cuda", 0), Device("cuda", 1)))
    encoders.load_encoders([large, short], wanted, source, workers, done.append)
    on_each = [((576, 512), [GGMLType.Q4_0], False), ((100, 512), [GGMLType.Q4_K], True)]
    assert encoded == [
        *((f"cuda:{n}", *one) for one in on_each for n in [0]), ("left", (), [], False),
        *((f"cuda:{n}", *one) for one in on_each for n in [1]), ("left", (), [], False),
    ]  # fmt: skip
    assert source.asked == [("large", 576), ("short", 100)] * 2
    assert done == [1] * 4


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_libggml_is_not_asked_where_it_prepares_for_seconds(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")

    class Wrong(Backend):
        def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
            found = super().encode(rows, outtype, columns, targets)
            data = bytearray(found.data[0])
            data[9] ^= 1
            return Encoded([bytes(data)], found.largest)

    def never(*_: Any) -> np.ndarray:
        raise AssertionError

    monkeypatch.setattr(encoders.ggml, "quantize_rows", never)
    monkeypatch.setattr(encoders, "open_backend", lambda device, name, timeline: Wrong(name, timeline))
    tensor = PlannedTensor("blk.0.ffn_up.weight", "up", (1024, 512), GGMLType.F16)
    arguments = [tensor], [output({tensor.name: GGMLType.IQ2_S})], Source(), Workers(1, (Device(kind),))
    if kind == "cpu":
        encoders.load_encoders(*arguments)()
        return
    compare = encoders.load_encoders(*arguments)
    with pytest.raises(QuantkitError, match=r"cuda:0 makes other bytes .*iq2_s"):
        compare()


@pytest.mark.parametrize("outtype", [GGMLType.F16, GGMLType.BF16], ids=lambda kind: kind.name)
@pytest.mark.parametrize("flipped", [None, 0, 1, 2])
def test_a_wrong_byte_is_refused(monkeypatch: pytest.MonkeyPatch, outtype: GGMLType, flipped: int | None) -> None:
    """Whichever output it is in, and only in the rows that are compared."""

    class Wrong(Backend):
        def encode(self, rows: Rows, outtype: GGMLType, columns: int, targets: Sequence[Target]) -> Encoded:
            found = super().encode(rows, outtype, columns, targets)
            data = [bytearray(piece) for piece in found.data]
            if flipped is not None:
                data[flipped][40] ^= 1
            data[0][-1] ^= 1
            return Encoded([bytes(piece) for piece in data], found.largest)

    monkeypatch.setattr(encoders, "open_backend", lambda device, name, timeline: Wrong(name, timeline))
    tensor = PlannedTensor("blk.0.ffn_up.weight", "up", (8192, 512), outtype)
    kinds = [GGMLType.Q4_K, outtype, GGMLType.Q8_0]
    outputs = [output({tensor.name: kind}, [tensor.name]) for kind in kinds]
    arguments = [tensor], outputs, Source(), Workers(1, (Device("cuda", 1),))
    if flipped is None:
        encoders.load_encoders(*arguments)()
        return
    compare = encoders.load_encoders(*arguments)
    with pytest.raises(QuantkitError, match=f"cuda:1 makes other bytes .*up.*{kinds[flipped].label}") as raised:
        compare()
    assert "--device cpu" in str(raised.value.hint)


def test_libggml_is_not_given_values_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the process; the stream refuses them by the tensor's name."""

    class Huge(Source):
        def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory) -> Rows:
            return Rows(super().rows(tensor, start, stop, memory).stored * np.float32(1e30))

    def never(*_: Any) -> np.ndarray:
        raise AssertionError

    monkeypatch.setattr(encoders.ggml, "quantize_rows", never)
    tensor = PlannedTensor("blk.0.ffn_up.weight", "up", (64, 512), GGMLType.F32)
    encoders.load_encoders([tensor], [output({tensor.name: GGMLType.IQ3_XXS})], Huge(), Workers(1))()
