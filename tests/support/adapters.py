"""Adapters made and saved by PEFT itself, with random values in everything that is trained."""

from __future__ import annotations

import json
import re
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
# What begins at zero, or may be anything.
_FACTORS = re.compile(r"\.lora_(A|B|embedding_A|embedding_B)\.")
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Variant:
    """A way in which adapters are trained.

    Attributes:
        settings: arguments of the method's config.
        kind: of the base.
        method: PEFT's name of it.
        binary: saved as adapter_model.bin.
        config: settings written over those in adapter_config.json after saving.
        warning: start of the warning PEFT gives for it, a regex.
        parts_tied: changes one side of a tied pair by LoRA. PEFT computes with both sides apart, but its merge writes
            into the tensor they share, so the merged model is another one.
    """

    settings: Mapping[str, Any]
    kind: str = "llama3-untied"
    method: str = "LORA"
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
    "short-convolutions-and-experts": Variant(
        {
            "target_modules": ["in_proj", "out_proj", "w1", "w2"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            "modules_to_save": ["conv.conv"],
            "r": 4,
        },
        kind="lfm2-moe",
    ),
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

# LoRA on the experts, which transformers keeps as one parameter a layer. PEFT looks for its own patterns among modules
# only, and warns, but applies them.
_PATTERNS = "The following (rank|alpha)_pattern keys did not match any targeted module"
FUSED_EXPERTS: dict[str, Variant] = {
    "experts-by-projections": Variant(
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"], "r": 4, "lora_alpha": 8},
        kind="mixtral",
        warning=_PATTERNS,
    ),
    "experts-all-linear": Variant(
        {"target_modules": "all-linear", "r": 4, "lora_alpha": 8}, kind="qwen3-moe", warning=_PATTERNS
    ),
    "experts-seven": Variant(
        {"target_modules": list(SEVEN), "r": 3, "lora_alpha": 5, "use_rslora": True},
        kind="qwen3-moe",
        warning=_PATTERNS,
    ),
    "experts-by-parameters": Variant(
        {
            "target_modules": ["q_proj", "shared_expert.up_proj"],
            "target_parameters": ["0.mlp.experts.gate_up_proj", "mlp.experts.down_proj", "1.mlp.gate.weight"],
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"layers.1.mlp.experts.down_proj": 6},
            "alpha_pattern": {"down_proj": 3, "gate.weight": 20},
        },
        kind="qwen2-moe",
        warning=_PATTERNS,
    ),
}
VARIANTS |= FUSED_EXPERTS

_CUDA = "Failed to load the CUDA extension|Setting boft_n_butterfly_factor"
_PROJECTION = "Specified to not (load|save) "
_NORM = "Unsupported layer type"
_QVD = ["q_proj", "v_proj", "down_proj"]
_TOKEN_IDS = [5, 3, 1000, 0, *range(100, 500)]


def _method(name: str, settings: Mapping[str, Any], **options: Any) -> Variant:
    return Variant({"target_modules": _QVD, **settings}, method=name, **options)


# What LoRA can be besides, and the other methods that are merged.
OTHER_METHODS: dict[str, Variant] = {
    "dora": Variant({"target_modules": list(SEVEN), "r": 8, "lora_alpha": 16, "use_dora": True}),
    "dora-patterns": Variant(
        {
            "target_modules": ["q_proj", "k_proj"],
            "r": 8,
            "use_dora": True,
            "use_rslora": True,
            "rank_pattern": {"k_proj": 3},
            "alpha_pattern": {"q_proj": 20},
            "bias": "lora_only",
        },
        kind="qwen2",
    ),
    "dora-embeddings": Variant(
        {"target_modules": ["embed_tokens", "q_proj"], "r": 8, "use_dora": True}, warning=_SAVED
    ),
    "trained-tokens": Variant({"target_modules": ["q_proj"], "r": 4, "trainable_token_indices": _TOKEN_IDS}),
    "trained-tokens-by-module": Variant(
        {
            "target_modules": ["q_proj"],
            "r": 4,
            "trainable_token_indices": {"embed_tokens": _TOKEN_IDS, "lm_head": [7, 2]},
        }
    ),
    "trained-tokens-tied": Variant(
        {"target_modules": ["q_proj"], "r": 4, "trainable_token_indices": _TOKEN_IDS}, kind="llama3-tied"
    ),
    "trained-tokens-both-tied": Variant(
        {
            "target_modules": ["q_proj"],
            "r": 4,
            "trainable_token_indices": {"embed_tokens": _TOKEN_IDS, "lm_head": _TOKEN_IDS},
        },
        kind="llama3-tied",
    ),
    "trainable-tokens": Variant({"token_indices": _TOKEN_IDS}, method="TRAINABLE_TOKENS"),
    "adalora": _method("ADALORA", {"init_r": 6, "target_r": 4, "total_step": 10, "lora_alpha": 12}),
    "beft": _method("BEFT", {"target_modules": ["q_proj", "v_proj"]}, kind="qwen2"),
    "boft": _method("BOFT", {"boft_block_size": 8, "boft_n_butterfly_factor": 2}, warning=_CUDA),
    "boft-bias": _method("BOFT", {"boft_block_size": 8, "bias": "boft_only"}, warning=_CUDA, kind="qwen2"),
    "c3a": _method("C3A", {"block_size": 8}),
    "deft": _method("DEFT", {}),
    "delora": _method("DELORA", {"r": 4}),
    "fourierft": _method("FOURIERFT", {"n_frequency": 50}),
    "glora": _method("GLORA", {"target_modules": ["q_proj", "v_proj"]}, kind="qwen2"),
    "gralora": _method("GRALORA", {"r": 8, "gralora_k": 2}),
    "hira": _method("HIRA", {"r": 4}),
    "hra": _method("HRA", {"r": 4}),
    "ia3": _method(
        "IA3", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, kind="qwen2"
    ),
    "ia3-llama": _method("IA3", {"target_modules": _QVD, "feedforward_modules": ["down_proj"]}),
    "ln-tuning": _method("LN_TUNING", {"target_modules": ["input_layernorm", "norm"]}, warning=_NORM),
    "loha": _method("LOHA", {"r": 4, "alpha": 8, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "loha-all-linear": _method("LOHA", {"target_modules": "all-linear", "r": 2}),
    "loha-regex": _method("LOHA", {"target_modules": r".*\.layers\.1\..*(q|down)_proj", "r": 2}),
    "loha-one-layer": _method("LOHA", {"r": 2, "layers_to_transform": [1], "exclude_modules": ["v_proj"]}),
    "loha-modules-to-save": _method("LOHA", {"r": 4, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "loha-tied-head": _method(
        "LOHA",
        {"target_modules": ["lm_head", "q_proj"], "r": 4},
        kind="llama3-tied",
        warning=f"{_TIED}|{_SAVED}",
        parts_tied=True,
    ),
    "lokr": _method("LOKR", {"r": 4, "alpha": 8, "decompose_both": True}),
    "miss": _method("MISS", {"r": 4}),
    "oft": _method("OFT", {"oft_block_size": 8, "r": 0}),
    "oft-cayley": _method("OFT", {"oft_block_size": 8, "r": 0, "use_cayley_neumann": True}),
    "peanut": _method("PEANUT", {}),
    "pvera": _method("PVERA", {"r": 8}),
    "randlora": _method("RANDLORA", {"r": 16, "randlora_alpha": 64}),
    "road": _method("ROAD", {}, kind="qwen2"),
    "shira": _method("SHIRA", {"r": 4}),
    "supertuning": _method("SUPERTUNING", {}),
    "vblora": _method("VBLORA", {"r": 4, "num_vectors": 16, "vector_length": 16, "topk": 2}),
    "vblora-topk": _method(
        "VBLORA",
        {"r": 4, "num_vectors": 16, "vector_length": 16, "topk": 2, "save_only_topk_weights": True},
    ),
    "vera": _method("VERA", {"r": 8}),
    "vera-without-projections": _method("VERA", {"r": 8, "save_projection": False}, warning=_PROJECTION),
    "waveft": _method("WAVEFT", {"n_frequency": 50}),
}
VARIANTS |= OTHER_METHODS


def make_adapter(folder: Path, base: Path, variant: Variant, *, seed: int = 1) -> Path:
    """Make an adapter of *base* with PEFT and save it.

    Args:
        folder: created.
        base: the base checkpoint.
        variant: what to train, and how to save it.
        seed: of the values; every trained tensor gets random ones, ``lora_B`` too.
    """
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with variant.expected_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = PEFT_TYPE_TO_CONFIG_MAPPING[variant.method](task_type="CAUSAL_LM", **variant.settings)
        model = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in sorted(model.named_parameters()):
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator) * 0.05
                weight.data = noise if _FACTORS.search(name) else weight.data + noise
        model.save_pretrained(folder, safe_serialization=not variant.binary)
    if variant.config:
        path = folder / "adapter_config.json"
        settings = {**json.loads(path.read_text(encoding="utf-8")), **variant.config}
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder
