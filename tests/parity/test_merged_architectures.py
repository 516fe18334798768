"""``merge`` of architectures that are not supported for GGUF: weights stored [in, out], embeddings tied under any name.

The merged folder, loaded by transformers, must compute what PEFT computes with the adapter on the base.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from quantkit.errors import AdapterError
from quantkit.jobs.merge import merge

Maker = Callable[..., Path]
ROWS, HIDDEN = 96, 32


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models, float32: by name their folders."""
    from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTBigCodeConfig, GPTNeoXConfig

    sizes = {"vocab_size": ROWS, "bos_token_id": 0, "eos_token_id": 0}
    attention = {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 32}
    configs = {
        "gpt2": GPT2Config(**attention, **sizes),
        "bigcode": GPTBigCodeConfig(**attention, **sizes),
        "bloom": BloomConfig(hidden_size=HIDDEN, n_layer=2, n_head=4, **sizes),
        "neox": GPTNeoXConfig(
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            tie_word_embeddings=True,
            **sizes,
        ),
    }
    root = tmp_path_factory.mktemp("bases")
    for name, config in configs.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(root / name)
    return {name: root / name for name in configs}


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tune(base: Path, folder: Path, method: str = "LoraConfig", **settings: Any) -> Path:
    """An adapter that PEFT saves, with other values in everything that is trained."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load(base), getattr(peft, method)(task_type="CAUSAL_LM", **settings))
        generator = torch.Generator().manual_seed(3)
        for _, weight in sorted(model.named_parameters()):
            if weight.requires_grad:  # in place: tied factors share their storage
                weight.data.add_(0.2 * torch.randn(weight.shape, generator=generator))
        model.save_pretrained(folder)
    return folder


def logits_with_peft(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found: torch.Tensor = PeftModel.from_pretrained(load(base), adapter)(torch.arange(20)[None]).logits
    return found


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load(folder)(torch.arange(20)[None]).logits
    return found


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    # PEFT sets fan_in_fan_out back, as the head is a Linear layer; the attention's c_proj is square.
    "conv1d-and-head": ("gpt2", {"target_modules": ["attn.c_proj", "lm_head"], "fan_in_fan_out": True}),
    "conv1d-saved": ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["c_fc"], "fan_in_fan_out": True}),
    "wte": ("gpt2", {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}),
    "wte-of-linear-layers": ("bigcode", {"target_modules": ["c_attn", "attn.c_proj"], "modules_to_save": ["wte"]}),
    "word-embeddings": ("bloom", {"target_modules": ["query_key_value", "word_embeddings"]}),
    "embed-in": ("neox", {"target_modules": ["query_key_value", "embed_in"]}),
    "embed-out": ("neox", {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_merged_model_computes_what_peft_does(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    kind, settings = CASES[name]
    adapter = tune(bases[kind], tmp_path / "adapter", r=4, **settings)
    merged = merge(bases[kind], tmp_path / "merged", adapters=[adapter], device="cpu")
    expected = logits_with_peft(bases[kind], adapter)
    assert (expected - logits(bases[kind])).abs().max() > 1e-2
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("method", "settings", "what"),
    [
        ("LoraConfig", {"target_modules": ["attn.c_proj"], "use_dora": True, "fan_in_fan_out": True}, "DoRA"),
        ("IA3Config", {"target_modules": ["c_attn"], "feedforward_modules": [], "fan_in_fan_out": True}, "IA3"),
    ],
)
def test_other_methods_on_conv1d_are_refused(
    bases: dict[str, Path], tmp_path: Path, method: str, settings: dict[str, Any], what: str
) -> None:
    adapter = tune(bases["gpt2"], tmp_path / "adapter", method, **settings)
    with pytest.raises(AdapterError, match=rf"Conv1D layer, stored \[in, out\]: {what} is not"):
        merge(bases["gpt2"], tmp_path / "merged", adapters=[adapter], device="cpu")


def test_factors_that_stay_tied(checkpoint: Maker, tmp_path: Path) -> None:
    """LoRA on the embedding with ``ensure_weight_tying``: PEFT saves the one pair of factors twice."""
    base = checkpoint("llama3-tied", layers=1)
    adapter = tune(base, tmp_path / "adapter", r=4, target_modules=["embed_tokens"], ensure_weight_tying=True)
    merged = merge(base, tmp_path / "merged", adapters=[adapter], dtype="f32", device="cpu")
    with safe_open(merged / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    torch.testing.assert_close(logits(merged), logits_with_peft(base, adapter), rtol=1e-5, atol=1e-4)
