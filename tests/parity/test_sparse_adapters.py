"""LoRA on routers, on single experts and on the first Qwen: models that PEFT cannot load, or not in this form.

The adapters are written by the documented layout, the merge is done here, and llama.cpp's converter goes on from it.
What PEFT saves of experts that transformers fuses is in the adapter matrix; here it is held against the single ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from tests.support.gguf_compare import tensor_differences
from tests.support.parity_matrix import pre_tokenizer
from tests.support.sums import low_rank_sum

Maker = Callable[..., Path]

RANK, ALPHA = 4, 8
EXPERTS = ("experts.0", "experts.3")
# By kind: the vocabulary, and the modules trained.
TRAINED: dict[str, tuple[str, Sequence[str]]] = {
    "mixtral": (
        "llama-spm",
        (
            "model.layers.1.block_sparse_moe.gate",
            *(
                f"model.layers.{i}.block_sparse_moe.{e}.{w}"
                for i in (0, 1)
                for e in EXPERTS
                for w in ("w1", "w2", "w3")
            ),
            *(f"model.layers.{i}.self_attn.{x}_proj" for i in (0, 1) for x in "qv"),
        ),
    ),
    "qwen3-moe": (
        "qwen2",
        (
            "model.layers.0.mlp.gate",
            *(f"model.layers.1.mlp.{e}.{w}_proj" for e in EXPERTS for w in ("gate", "up", "down")),
        ),
    ),
    "qwen2-moe": (
        "qwen2",
        (
            "model.layers.0.mlp.shared_expert_gate",
            "model.layers.1.mlp.shared_expert.up_proj",
            "model.layers.1.mlp.gate",
        ),
    ),
    # As the fine-tuning script that came with it trains it.
    "qwen": (
        "qwen-tiktoken",
        (
            "transformer.wte",
            *(f"transformer.h.{i}.{m}" for i in (0, 1) for m in ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2")),
        ),
    ),
}


def write_adapter(folder: Path, base: dict[str, torch.Tensor], modules: Sequence[str]) -> dict[str, torch.Tensor]:
    """Write a LoRA adapter of *modules* and return the merged tensors: ``W + alpha / r * B @ A``."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(5)
    merged, tensors = dict(base), {}
    for module in modules:
        weight = base[f"{module}.weight"]
        left, right = (
            0.05 * torch.randn(size, generator=generator) for size in ((len(weight), RANK), (RANK, weight.shape[1]))
        )
        merged[f"{module}.weight"] = low_rank_sum(weight, left, right, ALPHA / RANK)
        key = f"base_model.model.{module}"
        if module.endswith("wte"):  # an embedding's factors are the other way round
            tensors |= {f"{key}.lora_embedding_A": left.T.contiguous(), f"{key}.lora_embedding_B": right.T.contiguous()}
        else:
            tensors |= {f"{key}.lora_A.weight": right, f"{key}.lora_B.weight": left}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": list(modules)}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return merged


@pytest.mark.parametrize("kind", TRAINED)
def test_the_merge_is_converted_as_llama_cpp_converts_it(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, kind: str
) -> None:
    vocabulary, modules = TRAINED[kind]
    base = checkpoint(kind, dtype="f32")
    merged = write_adapter(tmp_path / "adapter", load_file(base / "model.safetensors"), modules)
    expected = shutil.copytree(base, tmp_path / "expected")
    save_file(merged, expected / "model.safetensors", metadata={"format": "pt"})
    pinned = pre_tokenizer(vocabulary)
    ours = convert(base, tmp_path / "ours.gguf", adapters=[tmp_path / "adapter"], outtype="f32")
    assert tensor_differences(ours, reference_gguf(expected, "f32", pre=pinned)) == []
    assert tensor_differences(ours, reference_gguf(base, "f32", pre=pinned)) != []


def split_experts(folder: Path, fused: Path, count: int) -> Path:
    """Write an adapter on Mixtral's fused experts as one on each expert's matrices: the delta is the product's part."""
    tensors = load_file(fused / "adapter_model.safetensors")
    single = {key: tensor for key, tensor in tensors.items() if ".mlp.experts." not in key}
    for key, a in tensors.items():
        if ".mlp.experts." not in key or "lora_A" not in key:
            continue
        b = tensors[key.replace("lora_A", "lora_B")]
        # The shapes that PEFT gives them before it multiplies: [experts, r, in] and [out, r, experts].
        cols, rows = a.reshape(count, -1, a.shape[1]), b.reshape(len(b), -1, count)
        names = ("w1", "w3") if ".base_layer." in key else ("w2",)
        module = key.partition(".mlp.")[0] + ".block_sparse_moe.experts"
        for expert in range(count):
            for name, part in zip(names, rows[:, :, expert].chunk(len(names)), strict=True):
                single[f"{module}.{expert}.{name}.lora_A.weight"] = cols[expert].clone()
                single[f"{module}.{expert}.{name}.lora_B.weight"] = part.contiguous()
    config = json.loads((fused / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"] += ["w1", "w2", "w3"]
    for pattern in ("rank_pattern", "alpha_pattern"):
        (value,) = config[pattern].values()
        config[pattern] = {"w[13]": value}
    del config["target_parameters"]
    folder.mkdir()
    save_file(single, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_fused_experts_are_the_single_ones(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    """What PEFT saves of all experts at once is what it saved of each, before transformers fused them."""
    base, fused = checkpoint("mixtral", dtype="f32"), adapter("experts-by-projections")
    single = split_experts(tmp_path / "single", fused, 4)
    merged = [
        load_file(merge(base, tmp_path / name, adapters=[folder]) / "model.safetensors")
        for name, folder in (("fused", fused), ("each", single))
    ]
    before = load_file(base / "model.safetensors")
    assert merged[0].keys() == merged[1].keys() == before.keys()
    assert {name for name in before if not torch.equal(merged[0][name], merged[1][name])} == set()
    changed = {name for name in before if not torch.equal(merged[0][name], before[name])}
    assert {name for name in before if ".experts." in name} < changed


def test_a_merged_first_qwen_keeps_its_tokenizer_and_code(checkpoint: Maker, tmp_path: Path) -> None:
    """As data: nothing of it runs."""
    base = shutil.copytree(checkpoint("qwen", dtype="f32"), tmp_path / "base")
    merged = write_adapter(tmp_path / "adapter", load_file(base / "model.safetensors"), TRAINED["qwen"][1])
    for name in ("tokenization_qwen.py", "modeling_qwen.py", "configuration_qwen.py"):
        (base / name).write_text("raise SystemExit('this code must not run')\n", encoding="utf-8")
    out = merge(base, tmp_path / "merged", adapters=[tmp_path / "adapter"])
    carried = {path.name for path in base.iterdir()} - {"config.json", "model.safetensors"}
    assert {"qwen.tiktoken", "tokenization_qwen.py", "modeling_qwen.py"} <= carried
    assert {name for name in carried if (out / name).read_bytes() != (base / name).read_bytes()} == set()
    found = load_file(out / "model.safetensors")
    assert found.keys() == merged.keys()
    assert {name for name in merged if not torch.equal(found[name], merged[name])} == set()
