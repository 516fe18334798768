"""Checkpoints under the names of wrappers, trainers and other libraries: the GGUF bytes are those of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quantkit.jobs.convert import convert, convert_adapter
from quantkit.jobs.merge import merge
from quantkit.system.progress import Reporter
from tests.checkpoints.case import edit_json, edit_tensors, write_adapter
from tests.support.adapter_matrix import saved_tensors
from tests.support.tensor_layouts import LAYOUTS, write_tensor_layout

Maker = Callable[..., Path]
SMALL = {"hidden": 256, "intermediate": 256, "layers": 2}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_bytes_of_the_plain_checkpoint(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    plain = checkpoint(layout.kind, **SMALL)
    folder = write_tensor_layout(tmp_path / "saved", plain, layout, shards=2)
    said, unsaid = Reporter(), Reporter()
    ours = convert(folder, tmp_path / "one" / "x.gguf", reporter=said)
    expected = convert(plain, tmp_path / "other" / "x.gguf", reporter=unsaid)
    assert ours.read_bytes() == expected.read_bytes()
    assert any(layout.note in note for note in said.notes), said.notes
    assert not any(layout.note in note for note in unsaid.notes)


@pytest.mark.parametrize("name", ["ddp", "decoder-alone", "mixtral-transformers-5", "gemma3-before"])
def test_an_adapter_merges_into_every_layout(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    plain = checkpoint(layout.kind, **SMALL)
    adapter = write_adapter(tmp_path / "adapter", plain)
    folder = write_tensor_layout(tmp_path / "saved", plain, layout)
    merged = [merge(base, tmp_path / f"merged-{base.name}", adapters=[adapter]) for base in (folder, plain)]
    ours, expected = (convert(one, tmp_path / f"{i}" / "x.gguf") for i, one in enumerate(merged))
    assert ours.read_bytes() == expected.read_bytes()
    direct = convert(folder, tmp_path / "direct" / "x.gguf", adapters=[adapter])
    assert direct.read_bytes() == convert(plain, tmp_path / "plain" / "x.gguf", adapters=[adapter]).read_bytes()


def test_a_lora_file_of_a_wrapped_base_may_have_the_output_head(checkpoint: Maker, tmp_path: Path) -> None:
    plain = checkpoint("llama3-untied", **SMALL)
    adapter, folder = write_adapter(tmp_path / "adapter", plain), tmp_path / "saved"
    write_tensor_layout(folder, plain, LAYOUTS["ddp"])
    rows, columns = saved_tensors(plain)["lm_head.weight"].shape
    head = {"A": torch.ones(4, columns), "B": torch.ones(rows, 4)}
    edit_json(adapter / "adapter_config.json", target_modules=["q_proj", "v_proj", "lm_head"])
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda found: found.update({f"base_model.model.lm_head.lora_{side}.weight": v for side, v in head.items()}),
    )
    ours, expected = (
        convert_adapter(base, tmp_path / f"{base.name}.gguf", adapter=adapter) for base in (folder, plain)
    )
    assert ours.read_bytes() == expected.read_bytes()
