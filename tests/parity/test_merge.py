"""``quantkit merge`` gives PEFT's own float32 merge, and a model that computes what base + adapter computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from tests.support.adapter_matrix import (
    LOGIT_TOLERANCE,
    TENSOR_TOLERANCE,
    adapter_row,
    as_table,
    difference,
    load,
    logits,
    saved_tensors,
    with_peft,
)
from tests.support.adapters import VARIANTS
from tests.support.gguf_compare import tensor_differences

Maker = Callable[..., Path]

STACK = ("seven-projections", "patterns", "modules-to-save")
# Methods of every way of merging, on the same tensors.
MIXED_STACK = ("dora", "loha", "ia3-llama", "q-and-v")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_merge_is_pefts(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    """Tensors, F16 file and logits; and the adapter matters, so that nothing passes by doing nothing."""
    variant = VARIANTS[name]
    row = adapter_row(name, variant, checkpoint(variant.kind, dtype="f32"), adapter(name), tmp_path)
    assert row.passed, as_table([row])


@pytest.mark.parametrize("names", [STACK, MIXED_STACK], ids=["lora", "mixed"])
def test_adapters_stack_in_order(checkpoint: Maker, adapter: Maker, tmp_path: Path, names: tuple[str, ...]) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    stack = [(adapter(name), VARIANTS[name]) for name in names]
    out = merge(base, tmp_path / "merged", adapters=[folder for folder, _ in stack], dtype="f32")
    ours, expected = saved_tensors(out), with_peft(base, stack, merged=True).state_dict()
    assert ours.keys() == expected.keys()
    far = {key: difference(value, expected[key]) for key, value in ours.items()}
    assert {key: value for key, value in far.items() if not value <= TENSOR_TOLERANCE} == {}
    assert difference(logits(load(out)), logits(with_peft(base, stack, merged=False))) <= LOGIT_TOLERANCE


@pytest.mark.parametrize("weights", [(0.5, 1.0), (-0.25, 1.5)], ids=str)
def test_weights_are_pefts(checkpoint: Maker, adapter: Maker, tmp_path: Path, weights: tuple[float, float]) -> None:
    """PEFT's linear combination of LoRA adapters, of different ranks."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    base, names = checkpoint("llama3-untied", dtype="f32"), ("seven-projections", "patterns")
    sources = [AdapterSource(adapter(name), weight) for name, weight in zip(names, weights, strict=True)]
    ours = saved_tensors(merge(base, tmp_path / "merged", adapters=sources, dtype="f32"))
    model = PeftModel.from_pretrained(load(base), sources[0].folder, adapter_name="one")
    model.load_adapter(sources[1].folder, adapter_name="two")
    for layer in model.modules():
        for name, weight in zip(("one", "two"), weights, strict=True):
            if isinstance(layer, LoraLayer):
                layer.set_scale(name, weight)
    expected = model.merge_and_unload(adapter_names=["one", "two"]).state_dict()
    assert max(difference(tensor, expected[key]) for key, tensor in ours.items()) <= TENSOR_TOLERANCE
    whole = saved_tensors(merge(base, tmp_path / "whole", adapters=[adapter(name) for name in names], dtype="f32"))
    key = "model.layers.0.self_attn.q_proj.weight"
    assert difference(ours[key], whole[key]) > 1e-3


@pytest.mark.parametrize("name", ["loha", "ia3-llama", "modules-to-save", "dora"])
def test_a_weight_takes_a_share_of_any_change(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    """What the documentation says of weights, with PEFT's merge as the whole change."""
    base, folder = checkpoint("llama3-untied", dtype="f32"), adapter(name)
    ours = saved_tensors(merge(base, tmp_path / "merged", adapters=[AdapterSource(folder, 0.3)], dtype="f32"))
    before, after = saved_tensors(base), with_peft(base, [(folder, VARIANTS[name])], merged=True).state_dict()
    expected = {key: before[key] + 0.3 * (after[key] - before[key]) for key in ours}
    assert max(difference(tensor, expected[key]) for key, tensor in ours.items()) <= TENSOR_TOLERANCE
    assert any(not torch.equal(ours[key], before[key]) for key in ours)


def test_adalora_after_its_ranks_were_allocated(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    """Each module then has a rank of its own, by its name and not by a pattern."""
    base, folder = checkpoint("llama3-untied", dtype="f32"), shutil.copytree(adapter("adalora"), tmp_path / "a")
    tensors, ranks = load_file(folder / "adapter_model.safetensors"), {}
    for number, key in enumerate(sorted(key for key in tensors if key.endswith(".lora_E"))):
        kept = [(number + i) % 3 != 0 or i == 5 for i in range(6)]
        module = key.removesuffix("lora_E")
        tensors[key], tensors[module + "lora_A"] = tensors[key][kept], tensors[module + "lora_A"][kept]
        tensors[module + "lora_B"] = tensors[module + "lora_B"][:, kept].contiguous()
        ranks[key.removeprefix("base_model.model.")] = kept
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": ranks}), encoding="utf-8")
    variant = replace(VARIANTS["adalora"], warning="The following rank_pattern keys did not match")
    row = adapter_row("adalora", variant, base, folder, tmp_path)
    assert row.passed, as_table([row])


def test_the_order_of_the_stack_matters(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    """A saved module replaces what came before it, so an order lost on the way shows."""
    base = checkpoint("llama3-untied", dtype="f32")
    pair = [adapter("modules-to-save"), adapter("embeddings")]
    there = saved_tensors(merge(base, tmp_path / "there", adapters=pair, dtype="f32"))
    back = saved_tensors(merge(base, tmp_path / "back", adapters=pair[::-1], dtype="f32"))
    assert difference(there["lm_head.weight"], back["lm_head.weight"]) > 1e-2
    variants = [VARIANTS["modules-to-save"], VARIANTS["embeddings"]]
    expected = with_peft(base, list(zip(pair, variants, strict=True)), merged=True).state_dict()
    assert difference(there["lm_head.weight"], expected["lm_head.weight"]) <= TENSOR_TOLERANCE


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_merged_then_rounded_once(checkpoint: Maker, adapter: Maker, tmp_path: Path, dtype: str) -> None:
    base, changes = checkpoint("llama3-untied", dtype="f32"), adapter("seven-projections")
    full = saved_tensors(merge(base, tmp_path / "f32", adapters=[changes], dtype="f32"))
    rounded = saved_tensors(merge(base, tmp_path / dtype, adapters=[changes], dtype=dtype))
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert {key: value.dtype for key, value in rounded.items()} == dict.fromkeys(full, kind)
    assert all(torch.equal(rounded[key], full[key].to(kind)) for key in full)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_auto_keeps_the_bases_type(checkpoint: Maker, adapter: Maker, tmp_path: Path, dtype: str) -> None:
    base = checkpoint("llama3-untied", dtype=dtype)
    out = merge(base, tmp_path / "merged", adapters=[adapter("q-and-v")])
    ours, before = saved_tensors(out), saved_tensors(base)
    assert {key: value.dtype for key, value in ours.items()} == {key: value.dtype for key, value in before.items()}
    same = {key for key in ours if torch.equal(ours[key], before[key])}
    assert ours.keys() - same == {
        f"model.layers.{i}.self_attn.{name}_proj.weight" for i in range(2) for name in ("q", "v")
    }


def test_shards_and_files_beside_them(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    base, changes = checkpoint("qwen2", dtype="f32"), adapter("bias-all")
    whole = saved_tensors(merge(base, tmp_path / "whole", adapters=[changes], dtype="f32"))
    out = merge(base, tmp_path / "parts", adapters=[changes], dtype="f32", max_shard_size=1_000_000)
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    parts = saved_tensors(out)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[key], whole[key]) for key in whole)
    assert torch.equal(logits(load(out)), logits(load(tmp_path / "whole")))
    text = "你好, <|im_start|>user\r\n🦙"
    assert AutoTokenizer.from_pretrained(out).encode(text) == AutoTokenizer.from_pretrained(base).encode(text)
    ends = GenerationConfig.from_pretrained(out).eos_token_id
    assert ends == GenerationConfig.from_pretrained(base).eos_token_id


@pytest.mark.parametrize(
    "name",
    [
        *("seven-projections", "modules-to-save", "tied-embedding-adapted", "tied-base", "bias-all"),
        "experts-by-parameters",
    ],
)
def test_converting_with_an_adapter_equals_converting_the_merged_folder(
    checkpoint: Maker, adapter: Maker, reference_gguf: Maker, tmp_path: Path, name: str
) -> None:
    kind = VARIANTS[name].kind
    base, changes = checkpoint(kind, dtype="f32"), adapter(name)
    ours = convert(base, tmp_path / "ours.gguf", adapters=[changes])
    merged = merge(base, tmp_path / "merged", adapters=[changes], dtype="f32")
    pre = "qwen2" if kind.startswith("qwen2") else "llama-bpe"
    assert tensor_differences(ours, reference_gguf(merged, "f16", pre=pre)) == []
