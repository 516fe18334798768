"""Adapters trained on another cut of the same model: merged, the tensors are those of a merge in the trained cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quantkit.errors import AdapterError
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.model.opening import open_model
from quantkit.system.progress import Reporter
from tests.checkpoints.case import edit_json, edit_tensors, write_adapter
from tests.support.adapter_matrix import saved_tensors

Maker = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
PARTS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
QKV, GATE_UP = PARTS.values()
SHAPE = {"hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 2, "layers": 2}
# Rows of q, k, v, and of gate, up.
ROWS = {"self_attn.qkv_proj": (64, 32, 32), "mlp.gate_up_proj": (96, 96)}
SPLIT = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "o_proj"]
FUSED = ["qkv_proj", "gate_up_proj", "o_proj"]


@pytest.fixture(scope="module")
def fused(checkpoint: Maker) -> Path:
    return checkpoint("phi3", dtype="f32", **SHAPE)


@pytest.fixture(scope="module")
def split(fused: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Llama."""
    folder = tmp_path_factory.mktemp("llama") / "split"
    shutil.copytree(fused, folder)
    edit_json(folder / "config.json", architectures=["LlamaForCausalLM"], model_type="llama")
    edit_tensors(folder / "model.safetensors", _cut)
    return folder


def _cut(tensors: Tensors) -> None:
    for name in list(tensors):
        for whole, parts in PARTS.items():
            if whole in name:
                pieces = tensors.pop(name).split(ROWS[whole])
                tensors.update({name.replace(whole, part): p.clone() for part, p in zip(parts, pieces, strict=True)})


def _adapter(folder: Path, base: Path, targets: list[str], **config: Any) -> Path:
    """LoRA on some modules of *base*."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, weight in saved_tensors(base).items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in targets:
            for side, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4))):
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = torch.randn(shape, generator=generator) / 8
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": "CAUSAL_LM"}
    settings |= {"base_model_name_or_path": "org/the-other-cut", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _same(ours: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("targets", [SPLIT, ["q_proj", "v_proj"]], ids=["all", "q-and-v"])
def test_lora_on_parts_of_a_fused_matrix(fused: Path, split: Path, tmp_path: Path, targets: list[str]) -> None:
    adapter, said = _adapter(tmp_path / "adapter", split, targets), Reporter()
    ours = saved_tensors(merge(fused, tmp_path / "ours", adapters=[adapter], reporter=said))
    assert not torch.equal(
        ours["model.layers.1.self_attn.qkv_proj.weight"],
        saved_tensors(fused)["model.layers.1.self_attn.qkv_proj.weight"],
    )
    _cut(ours)
    _same(ours, saved_tensors(merge(split, tmp_path / "expected", adapters=[adapter])))
    assert any("another cut" in note and "self_attn.q_proj" in note for note in said.notes), said.notes


def test_lora_on_a_fused_matrix_of_which_the_base_has_the_parts(fused: Path, split: Path, tmp_path: Path) -> None:
    adapter, said = _adapter(tmp_path / "adapter", fused, FUSED), Reporter()
    ours = saved_tensors(merge(split, tmp_path / "ours", adapters=[adapter], reporter=said))
    expected = saved_tensors(merge(fused, tmp_path / "expected", adapters=[adapter]))
    _cut(expected)
    _same(ours, expected)
    assert any("LoRA on 'model.layers.0.self_attn.qkv_proj.weight' is merged" in note for note in said.notes)


@pytest.mark.parametrize(
    ("kind", "targets", "config", "message"),
    [
        ("qwen2", FUSED, {}, "_proj.*', which the base model does not have"),
        ("phi3", SPLIT, {"use_dora": True}, "only plain LoRA can be merged there"),
    ],
    ids=["biased", "dora"],
)
def test_what_does_not_map_is_refused_with_the_bases_name(
    checkpoint: Maker,
    fused: Path,
    split: Path,
    tmp_path: Path,
    kind: str,
    targets: list[str],
    config: Any,
    message: str,
) -> None:
    adapter = _adapter(tmp_path / "adapter", split if targets is SPLIT else fused, targets, **config)
    if config:
        rows = {name: weight for name, weight in saved_tensors(split).items() if name.split(".")[-2] in targets}
        edit_tensors(
            adapter / "adapter_model.safetensors",
            lambda found: found.update(
                {
                    f"base_model.model.{name.removesuffix('.weight')}.lora_magnitude_vector": weight.norm(dim=1)
                    for name, weight in rows.items()
                }
            ),
        )
    with (
        pytest.raises(AdapterError, match=message) as caught,
        open_model(checkpoint(kind, dtype="f32", **SHAPE), [adapter]),
    ):
        pass
    assert "org/the-other-cut" in caught.value.hint


@pytest.mark.parametrize("name", ["output_layer", "model.lm_head", "output"])
def test_the_output_head_under_another_name(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    base = checkpoint("llama3-untied", dtype="f32", **SHAPE)
    plain = _adapter(tmp_path / "plain", base, ["q_proj", "lm_head"])
    other, said = shutil.copytree(plain, tmp_path / "other"), Reporter()
    edit_json(other / "adapter_config.json", target_modules=["q_proj", name.rpartition(".")[2]])

    def rename(tensors: Tensors) -> None:
        for key in list(tensors):
            tensors[key.replace(".model.lm_head.", f".model.{name}.")] = tensors.pop(key)

    edit_tensors(other / "adapter_model.safetensors", rename)
    ours = merge(base, tmp_path / "one", adapters=[other], reporter=said) / "model.safetensors"
    expected = merge(base, tmp_path / "two", adapters=[plain]) / "model.safetensors"
    assert ours.read_bytes() == expected.read_bytes()
    assert f"other trained {name!r}, which is 'lm_head' in the base model" in said.notes


def test_a_value_head_in_the_adapter_is_left_out(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32", **SHAPE)
    plain = write_adapter(tmp_path / "plain", base)
    other, said = shutil.copytree(plain, tmp_path / "other"), Reporter()
    edit_json(other / "adapter_config.json", modules_to_save=["v_head"])
    edit_tensors(
        other / "adapter_model.safetensors",
        lambda tensors: tensors.update({"base_model.model.v_head.summary.weight": torch.ones(1, 64)}),
    )
    ours = convert(base, tmp_path / "1" / "x.gguf", adapters=[other], reporter=said)
    assert ours.read_bytes() == convert(base, tmp_path / "2" / "x.gguf", adapters=[plain]).read_bytes()
    assert any("v_head.summary.weight' is left out: the value head" in note for note in said.notes)


def test_an_adapter_of_a_classifier_without_its_head_has_a_note(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32", **SHAPE)
    adapter, said = write_adapter(tmp_path / "adapter", base), Reporter()
    edit_json(adapter / "adapter_config.json", task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    convert(base, tmp_path / "x.gguf", adapters=[adapter], reporter=said)
    assert "adapter was trained to classify (task_type SEQ_CLS), not to chat" in said.notes
