"""Layers for multi-token prediction: kept, left out and lost, against llama.cpp's converter; and where they matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import quantkit
from quantkit.errors import CheckpointError, QuantizationError
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.model.opened import open_model
from tests.support.gguf_compare import FREE_TEXT, metadata_differences, tensor_differences
from tests.support.gguf_read import read_gguf
from tests.support.llama_model import llama_logits
from tests.support.reference import ReferenceConverter

Maker = Callable[..., Path]
TOKENS = (11, 18, 25, 32, 39)
KINDS = {"qwen3-next": "qwen2", "qwen3.5-sees": "qwen35"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dropped_is_what_the_converter_leaves_out(
    checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path, kind: str
) -> None:
    base = checkpoint(kind)
    expected = converter.convert(base, tmp_path / "reference.gguf", "f16", pre=KINDS[kind], no_mtp=True)
    ours = convert(base, tmp_path / "dropped.gguf", mtp="drop")
    found = (read_gguf(path).metadata for path in (ours, expected))
    assert metadata_differences(*found, ignored=FREE_TEXT) == []
    assert tensor_differences(ours, expected) == []
    kept = convert(base, tmp_path / "kept.gguf")
    assert len(read_gguf(kept).tensors) > len(read_gguf(ours).tensors)
    np.testing.assert_array_equal(llama_logits(kept, TOKENS), llama_logits(ours, TOKENS))


def test_notes(checkpoint: Maker) -> None:
    def notes(kind: str, **options: str) -> str:
        with open_model(checkpoint(kind), **options) as model:
            return "\n".join(model.notes)

    assert "multi-token prediction" not in notes("qwen3.5-sees")
    assert "are left out: multi-token prediction (--mtp drop)" in notes("qwen3.5-sees", mtp="drop")
    assert "counts 1 layers for multi-token prediction" in notes("qwen3.5")
    assert "--mtp drop: the model has no layers" in notes("llama3-untied", mtp="drop")


def test_a_merged_folder_keeps_them(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("qwen3-next")
    merged = merge(base, tmp_path / "merged", adapters=[], device="cpu")
    assert load_file(merged / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()


def test_a_matrix_of_importances_has_none_for_them(checkpoint: Maker) -> None:
    base = checkpoint("qwen3.5-sees")
    with pytest.raises(QuantizationError, match=r"blk\.2\.\w+\.weight: iq2_xs needs an importance matrix") as caught:
        quantkit.plan(base, quants="iq2_xs", calibrate="auto")
    assert "--mtp drop" in caught.value.hint
    assert quantkit.plan(base, quants="iq2_xs", calibrate="auto", mtp="drop").outputs


@pytest.mark.parametrize("name", ["in_proj_qkv.weight", "conv1d.weight", "A_log"])
def test_a_weight_that_is_not_finite_is_found_where_it_is(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in checkpoint("qwen3.5").iterdir():
        (base / file.name).symlink_to(file)
    tensors = load_file(base / "model.safetensors")
    tensors[f"model.layers.0.linear_attn.{name}"][-1] = torch.nan
    (base / "model.safetensors").unlink()
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"linear_attn\.{name}' has NaN or infinite values"):
        convert(base, tmp_path / "made.gguf")
