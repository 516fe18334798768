"""``quantkit merge`` gives PEFT's own float32 merge, and a model that computes what base + adapter computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from quantkit.convert import convert, merge
from tests.support.adapters import VARIANTS, Variant
from tests.support.gguf_compare import tensor_differences

Maker = Callable[..., Path]

# Float32 rounding of one product and one sum, relative to the largest value of the tensor.
TENSOR_TOLERANCE = 2e-6
# The same over the whole forward pass, relative to the largest logit.
LOGIT_TOLERANCE = 2e-5
STACK = ("seven-projections", "patterns", "modules-to-save")


def with_peft(base: Path, adapters: Sequence[tuple[Path, Variant]], *, merged: bool) -> Any:
    """Base and adapters through PEFT in float32: all merged, or all but the last."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for i, (folder, variant) in enumerate(adapters, start=1):
        with variant.expected_warnings():
            model = PeftModel.from_pretrained(model, folder)
            if merged or i < len(adapters):
                model = model.merge_and_unload(safe_merge=True)
    return model.eval()


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- no mapping
                assert name not in tensors
                tensors[name] = opened.get_tensor(name)
    return tensors


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((ours - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Teacher-forced logits of two rows of tokens."""
    tokens = torch.randint(0, model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(3))
    return model(input_ids=tokens).logits


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.parts_tied])
def test_tensors_are_pefts(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    base, changes = checkpoint(variant.kind, dtype="f32"), adapter(name)
    ours = saved_tensors(merge(base, tmp_path / "merged", adapters=[changes], dtype="f32"))
    expected = with_peft(base, [(changes, variant)], merged=True).state_dict()
    # A tied head is in transformers' state dict though no file holds it.
    missing = expected.keys() - ours.keys()
    assert missing <= {"lm_head.weight"}
    assert all(torch.equal(expected[key], expected["model.embed_tokens.weight"]) for key in missing)
    assert ours.keys() <= expected.keys()
    far = {key: difference(value, expected[key]) for key, value in ours.items()}
    assert {key: value for key, value in far.items() if not value <= TENSOR_TOLERANCE} == {}
    before = saved_tensors(base)
    assert any(not torch.equal(ours[key], before[key]) for key in before)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_base_and_adapter(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    base, changes = checkpoint(variant.kind, dtype="f32"), adapter(name)
    model = load(merge(base, tmp_path / "merged", adapters=[changes], dtype="f32"))
    trained = logits(with_peft(base, [(changes, variant)], merged=False))
    assert model.dtype == torch.float32
    assert difference(logits(model), trained) <= LOGIT_TOLERANCE
    # The adapter matters: the base alone is far away. So is PEFT's merge where it writes into a shared tensor.
    assert difference(logits(with_peft(base, [], merged=True)), trained) > 1e-3
    if variant.parts_tied:
        assert difference(logits(with_peft(base, [(changes, variant)], merged=True)), trained) > 1e-3


def test_adapters_stack_in_order(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    stack = [(adapter(name), VARIANTS[name]) for name in STACK]
    out = merge(base, tmp_path / "merged", adapters=[folder for folder, _ in stack], dtype="f32")
    ours, expected = saved_tensors(out), with_peft(base, stack, merged=True).state_dict()
    assert ours.keys() == expected.keys()
    far = {key: difference(value, expected[key]) for key, value in ours.items()}
    assert {key: value for key, value in far.items() if not value <= TENSOR_TOLERANCE} == {}
    assert difference(logits(load(out)), logits(with_peft(base, stack, merged=False))) <= LOGIT_TOLERANCE


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
    "name", ["seven-projections", "modules-to-save", "tied-embedding-adapted", "tied-base", "bias-all"]
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
