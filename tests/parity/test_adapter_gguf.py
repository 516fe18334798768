"""LoRA files: tensors and metadata of llama.cpp's converter, and a base model that computes the merged one's logits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.errors import AdapterError
from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert, convert_adapter
from quantkit.jobs.inspect import inspect
from quantkit.jobs.recipe import Recipe
from tests.faults.cli import run_here
from tests.support.adapter_layouts import write_qwen
from tests.support.adapters import VARIANTS, Variant, make_adapter
from tests.support.gguf_compare import differences
from tests.support.llama_logits import llama_logits
from tests.support.reference import ReferenceConverter

Maker = Callable[..., Path]

# Float32 rounding of W + BA at once against Wx + B(Ax), through the whole model, relative to the largest logit.
LOGIT_TOLERANCE = 2e-5


@pytest.mark.parametrize(
    ("name", "outtype"),
    [
        ("seven-projections", "f32"),
        ("seven-projections", "f16"),
        ("q-and-v", "bf16"),
        ("all-linear", "f32"),
        ("tied-base", "f32"),
        ("bin-file", "f16"),
        ("embeddings", "f32"),
    ],
)
def test_the_file_is_the_converters(
    checkpoint: Maker, adapter: Maker, converter: ReferenceConverter, tmp_path: Path, name: str, outtype: str
) -> None:
    base, changes = checkpoint(VARIANTS[name].kind, dtype="f32"), adapter(name)
    expected = converter.convert_lora(base, changes, tmp_path / "reference.gguf", outtype)
    ours = convert_adapter(base, tmp_path / "ours.gguf", adapter=changes, outtype=outtype)
    assert differences(ours, expected) == []


@pytest.mark.parametrize(
    "name", ["rslora-patterns", "embeddings", "tied-base", "patterns", "experts-all-linear", "experts-seven"]
)
def test_base_and_file_compute_what_the_merged_model_does(
    checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str
) -> None:
    """Also what llama.cpp's converter loses: rsLoRA's scaling and alphas of single matrices."""
    base, changes = checkpoint(VARIANTS[name].kind, dtype="f32"), adapter(name)
    lora = convert_adapter(base, tmp_path / "lora.gguf", adapter=changes)
    plain = convert(base, tmp_path / "base.gguf", outtype="f32")
    merged = convert(base, tmp_path / "merged.gguf", adapters=[changes], outtype="f32")
    tokens = [(7 * i * i + 3) % 2000 for i in range(16)]
    ours = llama_logits(plain, tokens, tmp_path / "ours.npy", loras=[lora])
    expected = llama_logits(merged, tokens, tmp_path / "expected.npy")
    without = llama_logits(plain, tokens, tmp_path / "without.npy")
    largest = np.abs(expected).max()
    assert np.abs(ours - expected).max() / largest <= LOGIT_TOLERANCE
    assert np.abs(without - expected).max() / largest > 1e-2


def test_experts_are_stacked(checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path) -> None:
    """LoRA on each expert's own matrix, as PEFT saved it before transformers fused them."""
    base = checkpoint("mixtral", dtype="f32")
    folder = tmp_path / "adapter"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    with open_checkpoint(base) as opened:
        for name, spec in opened.tensors.items():
            if match := re.fullmatch(r"(.*\.experts\.\d+\.w[123])\.weight", name):
                module = f"base_model.model.{match[1]}"
                tensors[f"{module}.lora_A.weight"] = 0.05 * torch.randn(4, spec.shape[1], generator=generator)
                tensors[f"{module}.lora_B.weight"] = 0.05 * torch.randn(spec.shape[0], 4, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["w1", "w2", "w3"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = convert_adapter(base, tmp_path / "ours.gguf", adapter=folder)
    assert differences(ours, converter.convert_lora(base, folder, tmp_path / "reference.gguf", "f32")) == []
    assert {len(tensor["shape"]) for tensor in inspect(ours)["tensors"]} == {3}

    del tensors["base_model.model.model.layers.0.block_sparse_moe.experts.1.w1.lora_A.weight"]
    del tensors["base_model.model.model.layers.0.block_sparse_moe.experts.1.w1.lora_B.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")
    pattern = r"(?!.*layers\.0\..*experts\.1\.w1).*\.w[123]"
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": pattern}), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"blk\.0\.ffn_gate_exps\.weight stacks \d matrices, \d of them"):
        convert_adapter(base, tmp_path / "partly.gguf", adapter=folder)


@pytest.mark.parametrize("kind", ["llama-biases", "qwen2", "gemma2", "phi3", "gpt-oss"])
def test_other_architectures(checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path, kind: str) -> None:
    base = checkpoint(kind, dtype="f32")
    variant = Variant({"target_modules": "all-linear", "r": 4, "lora_alpha": 8}, kind=kind)
    changes = make_adapter(tmp_path / "adapter", base, variant)
    ours = convert_adapter(base, tmp_path / "ours.gguf", adapter=changes)
    assert differences(ours, converter.convert_lora(base, changes, tmp_path / "reference.gguf", "f32")) == []


def test_the_first_qwen(checkpoint: Maker, converter: ReferenceConverter, tmp_path: Path) -> None:
    base = checkpoint("qwen", dtype="f32")
    folder = write_qwen(tmp_path / "adapter", load_file(base / "model.safetensors"))
    ours = convert_adapter(base, tmp_path / "ours.gguf", adapter=folder)
    assert differences(ours, converter.convert_lora(base, folder, tmp_path / "reference.gguf", "f32")) == []


def test_a_build_writes_each_adapter_by_itself(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    # Two folders of one name, and a weight, which the file's scaling has.
    folders = [shutil.copytree(adapter(name), tmp_path / name / "mine") for name in ("q-and-v", "rslora")]
    sources = (AdapterSource(folders[0]), AdapterSource(folders[1], 0.5))
    recipe = Recipe(base, sources, ("q8_0",), out=tmp_path / "out", name="tiny", adapter_gguf=True)
    result = build(recipe, verify=False)
    files = ["tiny-lora-mine-1.gguf", "tiny-lora-mine-2.gguf"]
    assert sorted(file.name for file in result.folder.glob("*lora*")) == files
    manifest = json.loads((result.folder / "manifest.json").read_text(encoding="utf-8"))
    assert [(entry["file"], entry["alpha"]) for entry in manifest["adapter_files"]] == [
        (files[0], 8.0),
        (files[1], 32.0),
    ]
    assert len(manifest["models"]) == 1
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert all(file in card for file in files)
    found = inspect(result.folder / files[0])
    assert {key: found[key] for key in ("kind", "architecture", "adapter", "alpha", "ranks", "matrices")} == {
        "kind": "gguf",
        "architecture": "llama",
        "adapter": "lora",
        "alpha": 8.0,
        "ranks": [4],
        "matrices": 4,
    }
    single = convert_adapter(base, tmp_path / "single.gguf", adapter=folders[0])
    assert single.read_bytes() == (result.folder / files[0]).read_bytes()


def test_the_plan_names_the_files(
    checkpoint: Maker, adapter: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, changes = checkpoint("llama3-untied", dtype="f32"), adapter("patterns")
    out = tmp_path / "out"
    command = ["build", str(base), "--adapter", str(changes), "-o", str(out), "--adapter-gguf", "--dry-run", "--json"]
    outcome = run_here([*command, "--name", "tiny"], capsys)
    assert outcome.code == 0, outcome.stderr
    plan = json.loads(outcome.stdout)
    (entry,) = plan["adapter_outputs"]
    assert (entry["file"], entry["type"]) == (f"tiny-lora-{changes.name}.gguf", "f32")
    assert any("scaled by the ratio" in note for note in plan["notes"])
    assert not out.exists()
