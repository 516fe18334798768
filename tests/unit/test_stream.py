"""The engine: every row once, the same bytes for any number of workers, and errors that stop everything."""

from __future__ import annotations

import _thread
import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import quantkit.engine.ranges
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.tensor_file import Memory, new_memory
from quantkit.engine import stream as stream_module
from quantkit.engine.device import Workers
from quantkit.engine.output_files import OutputFiles
from quantkit.engine.ranges import row_ranges
from quantkit.engine.rows import Rows
from quantkit.engine.stream import stream
from quantkit.errors import CheckpointError, OutOfRangeError, OutputError, QuantkitError
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.model.merger import Merger
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.plan.values import Output, PlannedTensor, TensorSlot, count_elements
from tests.support.bits import as_array
from tests.support.patience import PATIENCE

SIZES = {"wide": (96, 64), "tall": (700, 32), "norm": (64,), "odd": (5, 96), "long": (333,)}


def planned(name: str, shape: tuple[int, ...], base: GGMLType = GGMLType.F16, unit: int = 1) -> PlannedTensor:
    return PlannedTensor(name, f"model.{name}", shape, base, unit=unit)


@dataclass
class Source:
    """A source that keeps count; *before* is called with each range, and may raise."""

    values: Mapping[str, torch.Tensor]
    before: Callable[[str, int, int], None] = lambda name, start, stop: None
    sound: bool = True
    taken: list[tuple[str, int, int]] = field(default_factory=list)

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory = new_memory) -> Rows:
        self.taken.append((tensor.name, start, stop))
        self.before(tensor.name, start, stop)
        return Rows(as_array(self.values[tensor.name].reshape(tensor.rows, *tensor.shape[1:][-1:])[start:stop]))

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        return None if self.sound else CheckpointError(f"model.safetensors: tensor {tensor.source!r} has NaN")


def random_rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SIZES.items()}


def tensors() -> list[PlannedTensor]:
    return [planned(name, shape, GGMLType.F32 if len(shape) == 1 else GGMLType.F16) for name, shape in SIZES.items()]


def quantized(file: str, kind: GGMLType, chosen: Sequence[PlannedTensor]) -> Output:
    """An output with its matrices in *kind*, the tensors in reverse order and with gaps between."""
    header, places = b"HEADER", {}
    offset = len(header) + 3
    for tensor in reversed(chosen):
        own = tensor.outtype if len(tensor.shape) == 1 else kind
        places[tensor.name] = TensorSlot(own, offset, own.nbytes(tensor.shape))
        offset += places[tensor.name].nbytes + 5
    return Output(file, file, header, offset, places)


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantkit.engine.ranges, "CHUNK_WEIGHTS", 2048)


@given(
    rows=st.integers(1, 900),
    columns=st.lists(st.integers(1, 300), max_size=1),
    matrices=st.integers(1, 5),
    unit=st.sampled_from([1, 2, 32, 48, 64, 80, 128, 256]),
    chunk=st.sampled_from([1, 2048, 1 << 14, 1 << 20]),
)
def test_pieces_cover_each_row_once_in_whole_units(
    rows: int, columns: list[int], matrices: int, unit: int, chunk: int
) -> None:
    rows *= unit  # heads are whole
    stack = [matrices] if columns and matrices > 1 else []
    tensor = planned("t", (*stack, rows, *columns), unit=unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantkit.engine.ranges, "CHUNK_WEIGHTS", chunk)
        found = list(row_ranges(tensor))
    assert [piece.index for piece in found] == list(range(len(found)))
    assert [piece.start for piece in found] == [0, *(piece.stop for piece in found[:-1])]
    assert found[-1].stop == rows * count_elements(stack)
    assert all(piece.tensor is tensor and piece.start < piece.stop for piece in found)
    least = math.lcm(unit, 64)
    for piece in found:
        assert piece.start // rows == (piece.stop - 1) // rows  # within one matrix
        assert piece.start % rows % least == 0
        assert (piece.stop - piece.start) % unit == 0
        # No larger than asked for, unless the least that can be taken is.
        assert (piece.stop - piece.start) * count_elements(columns) <= max(chunk, least * count_elements(columns))


@pytest.mark.parametrize(
    ("shape", "rows"), [((128256, 2048), 2048), ((14336, 4096), 1024), ((4096, 4096), 512), ((512, 2048), 512)]
)
def test_ranges_are_an_eighth_of_a_tensor_within_limits(shape: tuple[int, int], rows: int) -> None:
    found = list(row_ranges(planned("w", shape)))
    assert {piece.stop - piece.start for piece in found[:-1]} <= {rows}
    assert found[0].stop == rows
    assert found[-1].stop == shape[0]


def expected_bytes(tensor: PlannedTensor, kind: GGMLType, values: torch.Tensor) -> bytes:
    """The tensor in one go."""
    if kind is GGMLType.F32:
        return values.numpy().tobytes()
    rounded = values.half()
    if kind is GGMLType.F16:
        return rounded.numpy().tobytes()
    return ggml.quantize_rows(kind, np.ascontiguousarray(rounded.float().numpy())).tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_files_are_the_same_for_any_number_of_threads(tmp_path: Path, small_ranges: None, threads: int) -> None:
    values, chosen, seen = random_rows(), tensors(), []
    outputs = [
        *unquantized_outputs("base.gguf", "f16", [], chosen),
        quantized("q8", GGMLType.Q8_0, chosen),
        quantized("q4", GGMLType.Q4_0, chosen),
        quantized("some", GGMLType.Q4_0, chosen[1:2]),
    ]
    source = Source(values)
    before = torch.get_num_threads()
    digests = stream(chosen, outputs, source, tmp_path, workers=Workers(threads), progress=seen.append)
    assert torch.get_num_threads() == before
    # Read once, however many outputs there are.
    assert sorted(source.taken) == sorted((p.tensor.name, p.start, p.stop) for t in chosen for p in row_ranges(t))
    assert len(source.taken) > len(chosen) + 8
    assert sum(seen) == sum(count_elements(shape) for shape in SIZES.values())
    assert digests.keys() == {output.file for output in outputs}
    for output in outputs:
        data = bytearray(output.nbytes)
        data[: len(output.header)] = output.header
        for tensor in chosen:
            if slot := output.tensors.get(tensor.name):
                raw = expected_bytes(tensor, slot.type, values[tensor.name])
                assert len(raw) == slot.nbytes
                data[slot.offset : slot.offset + slot.nbytes] = raw
                assert digests[output.file][tensor.name] == hashlib.sha256(raw).hexdigest()
        assert digests[output.file].keys() == output.tensors.keys()
        assert (tmp_path / output.file).read_bytes() == bytes(data)


def test_importance_goes_to_the_tensor_it_is_of(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    chosen = [planned("a", (130, 256)), planned("b", (130, 256))]
    values = {
        tensor.name: torch.from_numpy(random.standard_normal(tensor.shape, dtype=np.float32)) for tensor in chosen
    }
    weights = {"b": (random.random(256) ** 4 + 1e-3).astype(np.float32)}
    places = {name: TensorSlot(GGMLType.Q4_K, i * 18720, 18720) for i, name in enumerate("ab")}
    stream(chosen, [Output("x", "q4_k_s", b"", 37440, places, weights)], Source(values), tmp_path, workers=Workers(2))
    expected = b"".join(
        ggml.quantize_rows(GGMLType.Q4_K, values[name].half().float().numpy(), weights.get(name)).tobytes()
        for name in "ab"
    )
    assert (tmp_path / "x").read_bytes() == expected
    assert expected[18720:] != ggml.quantize_rows(GGMLType.Q4_K, values["b"].half().float().numpy()).tobytes()


def test_stacked_experts_have_an_importance_each(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    tensor = planned("experts", (70, 3, 256))
    values = torch.from_numpy(random.standard_normal(tensor.shape, dtype=np.float32))
    weights = (random.random((70, 256)) ** 4 + 1e-3).astype(np.float32)
    size = 70 * 3 * 144
    output = Output(
        "x", "q4_k_s", b"", size, {"experts": TensorSlot(GGMLType.Q4_K, 0, size)}, {"experts": weights.reshape(-1)}
    )
    stream([tensor], [output], Source({"experts": values}), tmp_path, workers=Workers(2))
    expected = b"".join(
        ggml.quantize_rows(GGMLType.Q4_K, values[i].half().float().numpy(), weights[i]).tobytes() for i in range(70)
    )
    assert (tmp_path / "x").read_bytes() == expected


def stream_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stream-")]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_the_source_stops_all(tmp_path: Path, small_ranges: None, threads: int) -> None:
    def fail(name: str, start: int, stop: int) -> None:
        if name == "tall" and start:
            raise CheckpointError("shard 3 is gone")
        time.sleep(0.001)

    chosen, source = tensors(), Source(random_rows(), fail)
    with pytest.raises(CheckpointError, match="shard 3 is gone"):
        stream(chosen, unquantized_outputs("x", "f16", [], chosen), source, tmp_path, workers=Workers(threads))
    assert stream_threads() == []
    taken = [name for name, _, _ in source.taken]
    assert threads > 1 or not {"odd", "long"} & set(taken)
    tall = next(tensor for tensor in chosen if tensor.name == "tall")
    assert taken.count("tall") < len(list(row_ranges(tall)))


def test_errors_that_are_not_ours_are_raised_as_they_are(tmp_path: Path) -> None:
    def fail(name: str, start: int, stop: int) -> None:
        raise ZeroDivisionError("a bug")

    chosen = tensors()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        stream(
            chosen,
            unquantized_outputs("x", "f16", [], chosen),
            Source(random_rows(), fail),
            tmp_path,
            workers=Workers(2),
        )


def test_an_output_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    chosen = tensors()
    (tmp_path / "b").write_text("precious", encoding="utf-8")
    source = Source(random_rows())
    with pytest.raises(OutputError, match="b: cannot be written"):
        stream(
            chosen,
            [*unquantized_outputs("a", "f16", [], chosen), *unquantized_outputs("b", "f16", [], chosen)],
            source,
            tmp_path,
            workers=Workers(2),
        )
    assert source.taken == []
    assert (tmp_path / "b").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("value", [65520.0, -65520.0, 1e30])
def test_a_value_too_large_for_f16(tmp_path: Path, value: float) -> None:
    values, chosen = random_rows(), tensors()
    values["tall"][699, 31] = value
    with pytest.raises(OutOfRangeError, match=r"tensor 'model\.tall' has a value of .*, too large for f16") as caught:
        stream(chosen, unquantized_outputs("x", "f16", [], chosen), Source(values), tmp_path, workers=Workers(2))
    assert "--outtype bf16" in caught.value.hint


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_merged_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    values, chosen = random_rows(), tensors()
    values["tall"][699, 31] = value
    with pytest.raises(OutOfRangeError, match=r"tensor 'model\.tall': the merged values are NaN") as caught:
        stream(chosen, unquantized_outputs("x", "f16", [], chosen), Source(values), tmp_path, workers=Workers(2))
    assert "adapter" in caught.value.hint


def test_sums_beyond_float32_are_refused_without_a_word_of_numpys(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """An adapter that diverged: the products are infinite, and their sums no numbers."""
    size = np.float32(3e38)
    left, right = np.array([[size, -size]] * 300, dtype=np.float32), np.full((2, 32), size)

    class Diverged(Source):
        def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory = new_memory) -> Rows:
            return super().rows(tensor, start, stop, memory).plus(left[start:stop], right)

    tensor, source = planned("w", (300, 32)), Diverged({"w": torch.ones(300, 32)})
    with pytest.raises(OutOfRangeError, match=r"'model\.w': the merged values are NaN or infinite in f32"):
        stream([tensor], unquantized_outputs("x", "f16", [], [tensor]), source, tmp_path, workers=Workers(2))
    assert [str(warning.message) for warning in recwarn] == []
    assert capfd.readouterr().err == ""


def test_the_largest_values_that_fit(tmp_path: Path) -> None:
    largest = {GGMLType.F16: 65519.996, GGMLType.BF16: 3.396177e38, GGMLType.F32: torch.finfo(torch.float32).max}
    for kind, value in largest.items():
        tensor = planned("t", (1, 32), kind)
        values = torch.full((1, 32), value) * torch.tensor([1.0, -1.0]).repeat(16)
        (output,) = unquantized_outputs(kind.name, kind.name.lower(), [], [tensor])
        stream([tensor], [output], Source({"t": values}), tmp_path, workers=Workers(1))
        raw = (tmp_path / kind.name).read_bytes()[output.tensors["t"].offset :]
        dtype = {GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16, GGMLType.F32: torch.float32}[kind]
        stored = torch.frombuffer(bytearray(raw), dtype=dtype)[:32]
        assert torch.isfinite(stored).all()
        assert stored[0] == -stored[1] == torch.finfo(dtype).max
    too_large = torch.full((1, 32), 3.39617753e38)
    bf16 = planned("t", (1, 32), GGMLType.BF16)
    with pytest.raises(OutOfRangeError, match="too large for bf16") as caught:
        stream(
            [bf16], unquantized_outputs("y", "bf16", [], [bf16]), Source({"t": too_large}), tmp_path, workers=Workers(1)
        )
    assert "f32" in caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_came_with_the_input_are_blamed_on_it(tmp_path: Path, value: float) -> None:
    values, chosen = random_rows(), tensors()
    values["odd"][4, 95] = value
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'model\.odd' has NaN"):
        stream(
            chosen,
            unquantized_outputs("x", "f16", [], chosen),
            Source(values, sound=False),
            tmp_path,
            workers=Workers(2),
        )


def test_nan_in_a_checkpoint_names_file_and_tensor(tmp_path: Path) -> None:
    values = torch.ones(300, 32)
    values[299, 7] = math.nan
    path = tmp_path / "model-00002-of-00002.safetensors"
    save_file({"model.w": values}, path)
    file = open_tensor_file(path)
    source = Merger(Checkpoint(tmp_path, {}, file.specs, {path: file}), ())
    tensor = planned("w", (300, 32))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: tensor 'model\.w' has NaN"):
        stream([tensor], unquantized_outputs("x", "f16", [], [tensor]), source, tmp_path, workers=Workers(2))
    file.close()


def test_an_interrupt_ends_every_worker(tmp_path: Path, small_ranges: None, monkeypatch: pytest.MonkeyPatch) -> None:
    working, over = threading.Barrier(3), threading.Event()
    work, abandon = stream_module._Job._work, OutputFiles.abandon

    def end_late(*given: Any) -> None:
        """On a busy machine a thread ends some time after its work."""
        work(*given)
        time.sleep(0.05)

    def stopped(files: OutputFiles) -> None:
        over.set()
        abandon(files)

    monkeypatch.setattr(stream_module._Job, "_work", end_late)
    monkeypatch.setattr(OutputFiles, "abandon", stopped)

    def slow(name: str, start: int, stop: int) -> None:
        if working.wait() == 0:
            time.sleep(0.05)
            _thread.interrupt_main()
        assert over.wait(PATIENCE)
        if threading.current_thread().name == "stream-0":
            time.sleep(0.3)  # the one that is waited for first ends last

    chosen = [planned(f"t{i}", (640, 64)) for i in range(20)]
    source = Source({tensor.name: torch.ones(tensor.shape) for tensor in chosen}, slow)
    with pytest.raises(KeyboardInterrupt):
        stream(chosen, unquantized_outputs("x", "f16", [], chosen), source, tmp_path, workers=Workers(3))
    assert stream_threads() == []
    assert len(source.taken) == 3
