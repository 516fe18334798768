"""The engine on CUDA devices: the bytes of the processor. Needs CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantkit.adapter.changes import LowRank
from quantkit.adapter.folder import Adapter
from quantkit.arch.decoder import interleave_halves
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.engine import ranges
from quantkit.engine.device import Workers, choose_workers
from quantkit.engine.stream import stream
from quantkit.engine.timeline import Timeline
from quantkit.ggml.types import GGMLType
from quantkit.kernels import cuda
from quantkit.kernels.cuda_driver import device_count
from quantkit.kernels.formats import PLAIN
from quantkit.model.merger import Merger
from quantkit.plan.values import Output, PlannedTensor, TensorSlot

pytestmark = pytest.mark.skipif(not device_count()[0], reason="there is no CUDA device")

SHAPE, HEAD = (1344, 512), 64
KINDS = [*sorted(PLAIN), GGMLType.Q2_0, GGMLType.F16, GGMLType.BF16]
OUTTYPES = {torch.bfloat16: GGMLType.BF16, torch.float16: GGMLType.F16, torch.float32: GGMLType.F16}


def output(tensors: list[PlannedTensor], kind: GGMLType, importance: Mapping[str, np.ndarray] | None = None) -> Output:
    size = kind.nbytes(SHAPE)
    places = {tensor.name: TensorSlot(kind, i * size, size) for i, tensor in enumerate(tensors)}
    name = f"{kind.label}-{len(importance or {})}"
    return Output(name, kind.label, b"", size * len(tensors), places, importance or {})


@pytest.mark.parametrize("ranks", [(), (3,), (16, 5), (4,) * (cuda.PAIRS + 1)], ids=["base", "one", "two", "too-many"])
@pytest.mark.parametrize("dtype", OUTTYPES)
def test_the_bytes_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, ranks: tuple[int, ...]
) -> None:
    monkeypatch.setattr(ranges, "DEVICE_CHUNK_WEIGHTS", 1 << 16)
    generator = torch.Generator().manual_seed(7)
    values = {f"t{i}": torch.randn(SHAPE, generator=generator).to(dtype) for i in range(3)}
    values["t2"][700, 3] = 1e-30  # arithmetic alone does not decide
    path = tmp_path / "model.safetensors"
    save_file(values, path)
    factors = {}
    for number, rank in enumerate(ranks):
        factors[f"b{number}"] = 0.1 * torch.randn((SHAPE[0], rank), generator=generator)
        factors[f"a{number}"] = torch.randn((rank, SHAPE[1]), generator=generator)
    save_file(factors, tmp_path / "adapter.safetensors")
    file, trained = open_tensor_file(path), open_tensor_file(tmp_path / "adapter.safetensors")
    adapters = [
        Adapter(tmp_path, {}, {name: (LowRank(f"b{i}", f"a{i}", False, 0.7),) for name in ("t0", "t2")}, trained)
        for i in range(len(ranks))
    ]
    tensors = [
        PlannedTensor(name, name, SHAPE, OUTTYPES[dtype], lambda rows: interleave_halves(rows, HEAD), HEAD)
        for name in values
    ]
    weights = {"t1": torch.rand(SHAPE[1], generator=generator).numpy()}
    outputs = [*(output(tensors, kind) for kind in KINDS), output(tensors, GGMLType.Q4_K, weights)]
    outputs.append(output(tensors, GGMLType.Q6_K, weights))
    source = Merger(Checkpoint(tmp_path, {}, file.specs, {path: file}), adapters)
    found, timeline = {}, Timeline()
    every = choose_workers("cuda", None).devices
    for name, workers in {"cpu": Workers(2), "cuda": Workers(5, every[:1], timeline), "all": Workers(5, every)}.items():
        (tmp_path / name).mkdir()
        digests = stream(tensors, outputs, source, tmp_path / name, workers=workers)
        found[name] = digests, [(tmp_path / name / made.file).read_bytes() for made in outputs]
    file.close()
    trained.close()
    assert found["cuda"] == found["cpu"] == found["all"]
    timeline.write(tmp_path / "trace.json")
    assert "on the device" in (tmp_path / "trace.json").read_text(encoding="utf-8")
