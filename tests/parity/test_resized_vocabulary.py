"""Adapters with more tokens than the base: the GGUF file of PEFT's merge on the resized base, and its tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quantkit.errors import AdapterError, VocabularyError
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.jobs.recipe import Recipe
from tests.support.adapter_matrix import TENSOR_TOLERANCE, difference, saved_tensors
from tests.support.chat_templates import LLAMA_3
from tests.support.checkpoints import token_ids
from tests.support.gguf_compare import differences
from tests.support.gguf_read import read_gguf
from tests.support.resized import make_resized_adapter, merge_with_peft, state

Maker = Callable[..., Path]

EXTRA = ("<think>", "</think>", "<工具>")
# What is trained, and whether embedding and head are two tensors after it, by the base.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "only-saved": ("llama3-untied", {}, True),
    "trained-in-full": ("llama3-untied", {"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "embedding-trained": ("llama3-untied", {"modules_to_save": ["embed_tokens"]}, True),
    "lora": ("llama3-untied", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, True),
    "single-tokens": ("llama3-untied", {"trainable_token_indices": {"embed_tokens": [2007, 2008, 2009]}}, True),
    "tied-only-saved": ("llama3-tied", {}, False),
    "tied-single-tokens": ("llama3-tied", {"trainable_token_indices": {"embed_tokens": [2007, 2008, 2009]}}, False),
    "tied-token-list": ("llama3-tied", {"trainable_token_indices": [2008, 2009]}, False),
    "tied-trained-together": (
        "llama3-tied",
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        False,
    ),
    "tied-embedding-trained": ("llama3-tied", {"modules_to_save": ["embed_tokens"]}, True),
    "qwen2": ("qwen2", {"modules_to_save": ["embed_tokens", "lm_head"]}, True),
}


def new_rows(vocabulary: Maker, kind: str, padding: int = 0) -> tuple[Path, int]:
    """The extended tokenizer, and how many rows it needs."""
    tokenizer = vocabulary("qwen2" if kind == "qwen2" else "llama-bpe", extra=EXTRA)
    return tokenizer, max(token_ids(tokenizer).values()) + 1 + padding


@pytest.mark.parametrize("name", CASES)
def test_the_vocabulary_is_the_adapters(
    checkpoint: Maker, vocabulary: Maker, reference_gguf: Maker, tmp_path: Path, name: str
) -> None:
    kind, lora, untied = CASES[name]
    base = checkpoint(kind, dtype="f32")
    tokenizer, rows = new_rows(vocabulary, kind, padding=6)
    adapter = make_resized_adapter(tmp_path / "adapter", base, rows, tokenizer=tokenizer, **lora)
    pre = "qwen2" if kind == "qwen2" else "llama-bpe"

    ours = convert(base, tmp_path / "ours.gguf", adapters=[adapter])
    merged = merge(base, tmp_path / "merged", adapters=[adapter], dtype="f32")
    expected = state(base, adapter, rows)
    tensors = saved_tensors(merged)
    assert ("lm_head.weight" in tensors) is untied
    far = {key: difference(value, expected[key]) for key, value in tensors.items()}
    assert {key: value for key, value in far.items() if not value <= TENSOR_TOLERANCE} == {}
    assert differences(ours, reference_gguf(merged, "f16", pre=pre)) == []
    # The whole chain with PEFT and transformers: only LoRA's sums may round to the other side.
    chain = merge_with_peft(tmp_path / "peft", base, adapter, rows, tokenizer)
    lines = differences(ours, reference_gguf(chain, "f16", pre=pre))
    assert [line for line in lines if "attn_q.weight: " not in line and not _of_lora(line, lora)] == []
    metadata = read_gguf(ours).metadata
    assert len(metadata["tokenizer.ggml.tokens"].value) == rows
    assert set(EXTRA) <= set(metadata["tokenizer.ggml.tokens"].value)
    assert json.loads((merged / "config.json").read_text(encoding="utf-8"))["vocab_size"] == rows


def _of_lora(line: str, lora: dict[str, Any]) -> bool:
    return "lm_head" in lora.get("target_modules", ()) and line.startswith(("token_embd.weight: ", "output.weight: "))


def test_lora_on_the_embedding_of_a_tied_model_leaves_the_head_as_it_was_resized(
    checkpoint: Maker, vocabulary: Maker, tmp_path: Path
) -> None:
    """PEFT computes so; its merge writes into the shared tensor."""
    base = checkpoint("llama3-tied", dtype="f32")
    tokenizer, rows = new_rows(vocabulary, "llama3-tied")
    adapter = make_resized_adapter(
        tmp_path / "adapter", base, rows, tokenizer=tokenizer, target_modules=["q_proj", "embed_tokens"]
    )
    merged = saved_tensors(merge(base, tmp_path / "merged", adapters=[adapter], dtype="f32"))
    saved = load_file(adapter / "adapter_model.safetensors")
    assert torch.equal(merged["lm_head.weight"], saved["base_model.model.model.embed_tokens.base_layer.weight"])
    expected = state(base, adapter, rows)["model.embed_tokens.weight"]
    assert difference(merged["model.embed_tokens.weight"], expected) <= TENSOR_TOLERANCE


def test_fewer_rows(checkpoint: Maker, vocabulary: Maker, reference_gguf: Maker, tmp_path: Path) -> None:
    """The base's embedding is padded, training cut it to the tokens that there are."""
    base = checkpoint("llama3-untied", dtype="f32", padding=50)
    rows = max(token_ids(base).values()) + 1
    adapter = make_resized_adapter(tmp_path / "adapter", base, rows)
    ours = convert(base, tmp_path / "ours.gguf", adapters=[adapter])
    merged = merge(base, tmp_path / "merged", adapters=[adapter], dtype="f32")
    assert differences(ours, reference_gguf(merged, "f16", pre="llama-bpe")) == []
    assert len(read_gguf(ours).metadata["tokenizer.ggml.tokens"].value) == rows


def test_padding_needs_no_tokenizer_and_new_tokens_do(checkpoint: Maker, vocabulary: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    padded = make_resized_adapter(tmp_path / "padded", base, 2048)
    merge(base, tmp_path / "merged", adapters=[padded])
    grown = make_resized_adapter(tmp_path / "grown", base, 2010)
    with pytest.raises(VocabularyError, match=r"2010 rows.*2007 tokens.*no tokenizer") as caught:
        merge(base, tmp_path / "refused", adapters=[grown])
    assert str(grown) in caught.value.hint


def test_two_sizes_are_refused(checkpoint: Maker, vocabulary: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    adapters = [make_resized_adapter(tmp_path / str(rows), base, rows) for rows in (2048, 2064)]
    with pytest.raises(AdapterError, match=r"vocabulary of 2048 rows.*2064"):
        merge(base, tmp_path / "merged", adapters=adapters)


def test_a_resized_adapter_and_one_that_is_not(
    checkpoint: Maker, adapter: Maker, vocabulary: Maker, tmp_path: Path
) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    tokenizer, rows = new_rows(vocabulary, "llama3-untied")
    resized = make_resized_adapter(tmp_path / "resized", base, rows, tokenizer=tokenizer)
    both = saved_tensors(merge(base, tmp_path / "both", adapters=[adapter("q-and-v"), resized], dtype="f32"))
    alone = saved_tensors(merge(base, tmp_path / "alone", adapters=[resized], dtype="f32"))
    assert both["model.embed_tokens.weight"].shape[0] == rows
    assert torch.equal(both["model.embed_tokens.weight"], alone["model.embed_tokens.weight"])
    v = "model.layers.0.self_attn.v_proj.weight"
    assert not torch.equal(both[v], alone[v])


def test_a_build_checks_tokens_against_the_adapters_tokenizer(
    checkpoint: Maker, vocabulary: Maker, tmp_path: Path
) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    tokenizer, rows = new_rows(vocabulary, "llama3-untied")
    adapter = make_resized_adapter(tmp_path / "adapter", base, rows, tokenizer=tokenizer)
    result = build(Recipe(base, (adapter,), ("q8_0",), out=tmp_path / "out", name="tiny"))
    assert result.report is not None
    (check,) = [check for check in result.report.checks if "token ids match" in check.name]
    assert check.passed
    assert f"{len(EXTRA) + 7} added tokens" in check.evidence
    assert any("tokenizer of adapter is used" in note for note in result.plan.notes)


def test_the_chat_template_beside_the_adapter_counts(
    checkpoint: Maker, adapter: Maker, reference_gguf: Maker, tmp_path: Path
) -> None:
    """The tokens are the base's: only the template is taken, by the GGUF file and by the merged folder."""
    base = checkpoint("llama3-untied", dtype="f32")
    folder = shutil.copytree(adapter("q-and-v"), tmp_path / "adapter")
    shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    template = LLAMA_3 + "{# as trained #}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    ours = convert(base, tmp_path / "ours.gguf", adapters=[folder])
    assert read_gguf(ours).metadata["tokenizer.chat_template"].value == template
    merged = merge(base, tmp_path / "merged", adapters=[folder], dtype="f32")
    assert differences(ours, reference_gguf(merged, "f16", pre="llama-bpe")) == []
    result = build(Recipe(base, (folder,), ("q8_0",), out=tmp_path / "out", name="tiny"), verify=False)
    assert any("chat template of adapter is used" in note for note in result.plan.notes)
    assert read_gguf(result.folder / "tiny-q8_0.gguf").metadata["tokenizer.chat_template"].value == template
