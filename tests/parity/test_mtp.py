"""Layers for multi-token prediction: kept, left out and lost, against llama.cpp's converter; and where they matter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import quantkit
from quantkit.errors import AdapterError, CheckpointError, QuantizationError
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.model.opening import open_model
from tests.support.gguf_compare import FREE_TEXT, metadata_differences, tensor_differences
from tests.support.gguf_read import read_gguf
from tests.support.llama_model import llama_logits
from tests.support.parity_matrix import ADDED
from tests.support.reference import ReferenceConverter

Maker = Callable[..., Path]
TOKENS = (11, 18, 25, 32, 39)
KINDS = {"qwen3-next": "qwen2", "qwen3.5-sees": "qwen35", "glm4-moe": "glm4", "glm4-moe-lite": "glm4"}
BEHIND = "model.layers.2."
QUERIES, HIDDEN = 512, 256


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dropped_is_what_the_converter_leaves_out(
    checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path, kind: str
) -> None:
    base = checkpoint(kind)
    expected = converter.convert(base, tmp_path / "reference.gguf", "f16", pre=KINDS[kind], no_mtp=True)
    ours = convert(base, tmp_path / "dropped.gguf", mtp="drop")
    found = (read_gguf(path).metadata for path in (ours, expected))
    assert metadata_differences(*found, ignored=FREE_TEXT, added=ADDED.get(kind)) == []
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


def without_the_layer(base: Path, folder: Path) -> Path:
    """A copy that has lost its layer for multi-token prediction, which config.json still counts."""
    copied = Path(shutil.copytree(base, folder))
    tensors = load_file(copied / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if BEHIND not in name}, copied / "model.safetensors")
    return copied


def test_a_lost_layer_stays_counted_as_the_converter_does(
    checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path
) -> None:
    base = without_the_layer(checkpoint("glm4-moe"), tmp_path / "base")
    expected = converter.convert(base, tmp_path / "reference.gguf", "f16", pre="glm4")
    ours = convert(base, tmp_path / "ours.gguf")
    assert metadata_differences(*(read_gguf(path).metadata for path in (ours, expected)), ignored=FREE_TEXT) == []
    assert tensor_differences(ours, expected) == []
    kept = convert(checkpoint("glm4-moe"), tmp_path / "kept.gguf")
    np.testing.assert_array_equal(llama_logits(kept, TOKENS), llama_logits(ours, TOKENS))


def test_the_layer_that_llama_cpp_does_not_have_is_named_and_merged(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("deepseek-v3")
    with open_model(base) as model:
        assert "which llama.cpp does not have for this family" in "\n".join(model.notes)
    merged = merge(base, tmp_path / "merged", adapters=[], device="cpu")
    assert load_file(merged / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()


def trained(folder: Path, modules: Mapping[str, tuple[int, int]]) -> Path:
    """An adapter of another trainer, which has the layer: factors of rank 2 for *modules*, of these shapes."""
    generator, factors = torch.Generator().manual_seed(5), {}
    for name, (rows, columns) in modules.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = 0.1 * torch.randn(2, columns, generator=generator)
        factors[f"base_model.model.{name}.lora_B.weight"] = 0.1 * torch.randn(rows, 2, generator=generator)
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    names = sorted({name.rpartition(".")[2] for name in modules})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": names}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_an_adapter_may_change_the_layer(checkpoint: Maker, tmp_path: Path) -> None:
    base, name = checkpoint("glm4-moe", dtype="f32"), f"{BEHIND}eh_proj"
    stored = load_file(base / "model.safetensors")[f"{name}.weight"]
    adapter = trained(tmp_path / "adapter", {name: (stored.shape[0], stored.shape[1])})
    factors = load_file(adapter / "adapter_model.safetensors")
    left, right = (factors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "BA")
    made = merge(base, tmp_path / "merged", adapters=[adapter], device="cpu", dtype="f32")
    torch.testing.assert_close(load_file(made / "model.safetensors")[f"{name}.weight"], stored + 2 * left @ right)
    file = convert(base, tmp_path / "merged.gguf", adapters=[adapter], outtype="f32")
    written = np.frombuffer(read_gguf(file).tensors["blk.2.nextn.eh_proj.weight"].data, dtype=np.float32)
    expected = (stored + 2 * left @ right).numpy()
    np.testing.assert_allclose(written.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(AdapterError, match="layer for multi-token prediction, which is not written") as caught:
        convert(base, tmp_path / "dropped.gguf", adapters=[adapter], mtp="drop")
    assert "--mtp drop" in caught.value.hint


def test_an_adapter_for_all_layers_must_have_all(checkpoint: Maker, tmp_path: Path) -> None:
    """Its file has factors for the layer, so the model in training had it: what is missing there is missing."""
    base = checkpoint("glm4-moe", dtype="f32")
    shapes = {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in load_file(base / "model.safetensors").items()
        if name.endswith(("q_proj.weight", "k_proj.weight"))
    }
    assert any(name.startswith(BEHIND) for name in shapes)
    whole = trained(tmp_path / "whole", shapes)
    assert convert(base, tmp_path / "whole.gguf", adapters=[whole]).exists()
    usual = trained(tmp_path / "usual", {name: shape for name, shape in shapes.items() if BEHIND not in name})
    assert convert(base, tmp_path / "usual.gguf", adapters=[usual]).exists()
    part = trained(tmp_path / "part", {name: shapes[name] for name in shapes if name != f"{BEHIND}self_attn.k_proj"})
    with pytest.raises(AdapterError, match="k_proj"):
        convert(base, tmp_path / "part.gguf", adapters=[part])


def test_a_resized_vocabulary_needs_the_layer_left_out(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("glm4-moe", dtype="f32")
    adapter = trained(tmp_path / "adapter", {"model.layers.0.self_attn.q_proj": (QUERIES, HIDDEN)})
    stored = load_file(base / "model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    for name in ("model.embed_tokens", "lm_head"):
        rows = stored[f"{name}.weight"]
        factors[f"base_model.model.{name}.weight"] = torch.cat([rows, rows[: -len(rows) % 64]])
    save_file(factors, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    saved = {**config, "modules_to_save": ["embed_tokens", "lm_head"], "layers_to_transform": [0]}
    (adapter / "adapter_config.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"resizes the vocabulary, but not 'model\.layers\.2\.embed_tok") as caught:
        convert(base, tmp_path / "kept.gguf", adapters=[adapter])
    assert "--mtp drop" in caught.value.hint
    assert convert(base, tmp_path / "dropped.gguf", adapters=[adapter], mtp="drop").exists()
