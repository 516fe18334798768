"""Adapters in every trainer's layout: the merged bytes are those of the same weights in PEFT's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantkit.errors import AdapterError
from quantkit.jobs.merge import merge
from tests.support.adapter_layouts import LAYOUTS, write_layout, write_qwen, write_torchtune
from tests.support.adapter_matrix import TENSOR_TOLERANCE, difference, saved_tensors

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def expected(checkpoint: Maker, adapter: Maker, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("plain") / "merged"
    merge(checkpoint("llama3-untied", dtype="f32"), out, adapters=[adapter("seven-projections")])
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_merges_to_the_same_bytes(
    checkpoint: Maker, adapter: Maker, tmp_path: Path, expected: bytes, name: str
) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    folder = write_layout(tmp_path / "adapter", adapter("seven-projections"), LAYOUTS[name])
    out = merge(base, tmp_path / "merged", adapters=[folder])
    assert (out / "model.safetensors").read_bytes() == expected
    assert expected != (base / "model.safetensors").read_bytes()


def test_torchtunes_own_layout_is_refused_with_the_way_on(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    folder = write_torchtune(tmp_path / "adapter", adapter("seven-projections"))
    with pytest.raises(AdapterError, match="torchtune's own layout") as caught:
        merge(checkpoint("llama3-untied", dtype="f32"), tmp_path / "merged", adapters=[folder])
    assert "adapter_model.safetensors" in caught.value.hint
    shutil.rmtree(folder)


@pytest.mark.parametrize("full", [False, True], ids=["chat", "base"])
def test_qwens_finetune_py(checkpoint: Maker, tmp_path: Path, full: bool) -> None:
    """transformers has no such model, so what the merge must be is computed here."""
    base = checkpoint("qwen", dtype="f32")
    before = saved_tensors(base)
    folder = write_qwen(tmp_path / "adapter", before, full=full)
    trained = load_file(folder / "adapter_model.safetensors")
    merged = saved_tensors(merge(base, tmp_path / "merged", adapters=[folder], dtype="f32"))
    assert merged.keys() == before.keys()
    for name, weight in before.items():
        module = "base_model.model." + name.removesuffix(".weight")
        expected = trained.get(f"{module}.weight", weight)
        if f"{module}.lora_A.weight" in trained:
            expected = weight + 4 * trained[f"{module}.lora_B.weight"] @ trained[f"{module}.lora_A.weight"]
        assert difference(merged[name], expected) <= TENSOR_TOLERANCE, name
        assert torch.equal(merged[name], weight) is not any(key.startswith(f"{module}.") for key in trained)
    carried = {file.name for file in (tmp_path / "merged").iterdir()}
    assert {file.name for file in base.iterdir()} <= carried
