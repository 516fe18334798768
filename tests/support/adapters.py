"""LoRA adapters made and saved by PEFT itself, with random factors on both sides."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# What PEFT warns of, for variants that it applies to.
_TIED = "Model (with|has) `tie_word_embeddings=True`|Input and output embeddings are no longer tied"
_FAN = "fan_in_fan_out is set to True but the target module is"
_BIAS = r"Adapter 'default': \d+ LoRA tensor\(s\) have invalid shape: .*lora_B\.bias"
_SAVED = "Setting `save_embedding_layers` to `True`"
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Variant:
    """A way in which adapters are trained.

    Attributes:
        lora: LoraConfig's arguments.
        kind: of the base.
        binary: saved as adapter_model.bin.
        config: settings written over those in adapter_config.json after saving.
        warning: start of the warning PEFT gives for it, a regex.
        parts_tied: changes one side of a tied pair by LoRA. PEFT computes with both sides apart, but its merge writes
            into the tensor they share, so the merged model is another one.
    """

    lora: Mapping[str, Any]
    kind: str = "llama3-untied"
    binary: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""
    parts_tied: bool = False

    @contextmanager
    def expected_warnings(self) -> Iterator[None]:
        """Let PEFT give this variant's warning; every other one stays an error."""
        with warnings.catch_warnings():
            if self.warning:
                warnings.filterwarnings("ignore", message=self.warning)
            yield


VARIANTS: dict[str, Variant] = {
    "seven-projections": Variant({"target_modules": list(SEVEN), "r": 16, "lora_alpha": 16}),
    "q-and-v": Variant({"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8}),
    "patterns": Variant(
        {
            "target_modules": list(SEVEN),
            "r": 8,
            "lora_alpha": 16,
            "rank_pattern": {"q_proj": 4, "layers.1.mlp.down_proj": 2, "^model.layers.0.mlp.up_proj": 12},
            "alpha_pattern": {"v_proj": 40, "layers.1.mlp.down_proj": 1},
        }
    ),
    "rslora": Variant({"target_modules": list(SEVEN), "r": 16, "lora_alpha": 16, "use_rslora": True}),
    "rslora-patterns": Variant(
        {
            "target_modules": ["q_proj", "o_proj"],
            "r": 16,
            "lora_alpha": 16,
            "use_rslora": True,
            "rank_pattern": {"o_proj": 9},
            "alpha_pattern": {"o_proj": 5},
        }
    ),
    "modules-to-save": Variant(
        {
            "target_modules": list(SEVEN),
            "r": 8,
            "lora_alpha": 16,
            "modules_to_save": ["embed_tokens", "lm_head"],
        }
    ),
    "norms-saved": Variant({"target_modules": ["q_proj"], "r": 4, "modules_to_save": ["input_layernorm", "norm"]}),
    "bias-all": Variant({"target_modules": ["q_proj", "v_proj"], "r": 4, "bias": "all"}, kind="qwen2"),
    "bias-lora-only": Variant({"target_modules": ["q_proj", "o_proj"], "r": 4, "bias": "lora_only"}, kind="qwen2"),
    "lora-bias": Variant(
        {"target_modules": ["q_proj", "k_proj"], "r": 4, "lora_bias": True}, kind="qwen2", warning=_BIAS
    ),
    # PEFT saves a copy of the base's embedding with it, and of the head.
    "embeddings": Variant(
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "r": 8, "lora_alpha": 4}, warning=_SAVED
    ),
    "layers-to-transform": Variant(
        {"target_modules": ["q_proj", "up_proj"], "r": 8, "layers_to_transform": [1], "layers_pattern": "layers"}
    ),
    "all-linear": Variant({"target_modules": "all-linear", "r": 8}),
    "regex": Variant({"target_modules": r".*\.layers\.[1-9]\.(self_attn\.[qv]_proj|mlp\.down_proj)", "r": 8}),
    "bin-file": Variant({"target_modules": list(SEVEN), "r": 8}, binary=True),
    "tied-base": Variant({"target_modules": list(SEVEN), "r": 8}, kind="llama3-tied"),
    "tied-embedding-adapted": Variant(
        {"target_modules": ["embed_tokens", "q_proj"], "r": 8},
        kind="llama3-tied",
        warning=f"{_TIED}|{_SAVED}",
        parts_tied=True,
    ),
    "tied-head-adapted": Variant(
        {"target_modules": ["lm_head", "q_proj"], "r": 8},
        kind="qwen2-tied",
        warning=f"{_TIED}|{_SAVED}",
        parts_tied=True,
    ),
    "tied-embedding-saved": Variant(
        {"target_modules": ["q_proj"], "r": 8, "modules_to_save": ["embed_tokens"]}, kind="llama3-tied", warning=_TIED
    ),
    "tied-both-saved": Variant(
        {"target_modules": ["q_proj"], "r": 8, "modules_to_save": ["embed_tokens", "lm_head"]},
        kind="llama3-tied",
        warning=_TIED,
    ),
    # PEFT warns and ignores the flag on Linear layers; the flag in a saved config must change nothing.
    "fan-in-fan-out": Variant({"target_modules": list(SEVEN), "r": 8}, config={"fan_in_fan_out": True}, warning=_FAN),
    # Unsloth's adapters name the 4-bit copy of the base that they were trained on.
    "four-bit-base-name": Variant(
        {"target_modules": list(SEVEN), "r": 16, "lora_alpha": 16},
        config={"base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit"},
    ),
}


def make_adapter(folder: Path, base: Path, variant: Variant, *, seed: int = 1) -> Path:
    """Make an adapter of *base* with PEFT and save it.

    Args:
        folder: created.
        base: the base checkpoint.
        variant: what to train, and how to save it.
        seed: of the values; every trained tensor gets random ones, ``lora_B`` too.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with variant.expected_warnings():
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **variant.lora))
        generator = torch.Generator().manual_seed(seed)
        for name, weight in sorted(model.named_parameters()):
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator) * 0.05
                weight.data = noise if ".lora_" in name else weight.data + noise
        model.save_pretrained(folder, safe_serialization=not variant.binary)
    if variant.config:
        path = folder / "adapter_config.json"
        settings = {**json.loads(path.read_text(encoding="utf-8")), **variant.config}
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder
