"""The engine on a CUDA device: the bytes of the processor. Needs CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.tensor_file import open_tensor_file
from quantkit.engine import ranges
from quantkit.engine.device import Workers, choose_workers
from quantkit.engine.stream import stream
from quantkit.engine.timeline import Timeline
from quantkit.ggml.types import GGMLType
from quantkit.model.merger import Merger
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SHAPE = (1344, 512)
KINDS = [GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.IQ4_NL, GGMLType.F16]


def output(tensors: list[PlannedTensor], kind: GGMLType) -> Output:
    size = kind.nbytes(SHAPE)
    places = {tensor.name: TensorSlot(kind, i * size, size) for i, tensor in enumerate(tensors)}
    return Output(kind.label, kind.label, b"", size * len(tensors), places)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_bytes_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(ranges, "DEVICE_CHUNK_WEIGHTS", 1 << 16)
    generator = torch.Generator().manual_seed(7)
    values = {f"t{i}": torch.randn(SHAPE, generator=generator).to(dtype) for i in range(3)}
    path = tmp_path / "model.safetensors"
    save_file(values, path)
    file = open_tensor_file(path)
    tensors = [PlannedTensor(name, name, SHAPE, GGMLType.F16, arrange=lambda rows: rows.flip(1)) for name in values]
    outputs = [output(tensors, kind) for kind in KINDS]
    source = Merger(Checkpoint(tmp_path, {}, file.specs, {path: file}), ())
    found, timeline = {}, Timeline()
    every = choose_workers("cuda", None).devices
    for name, workers in {"cpu": Workers(2), "cuda": Workers(5, every[:1], timeline), "all": Workers(5, every)}.items():
        (tmp_path / name).mkdir()
        digests = stream(tensors, outputs, source, tmp_path / name, workers=workers)
        found[name] = digests, [(tmp_path / name / made.file).read_bytes() for made in outputs]
    file.close()
    assert found["cuda"] == found["cpu"] == found["all"]
    timeline.write(tmp_path / "trace.json")
    assert "on cuda:0" in (tmp_path / "trace.json").read_text(encoding="utf-8")
