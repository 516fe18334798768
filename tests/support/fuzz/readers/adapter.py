"""Adapters: adapter_config.json and the header of the weights, against a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quantkit.jobs.inspect import inspect
from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.parts import of_parts, write_sparse
from tests.support.fuzz.planned import plan
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder, standing

_MODULE = "base_model.model.model.layers.0"
_CONFIG = {
    "base_model_name_or_path": "a/base",
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}
_FACTORS = {
    f"{_MODULE}.self_attn.q_proj.lora_A.weight": ["F32", [4, 64]],
    f"{_MODULE}.self_attn.q_proj.lora_B.weight": ["F32", [64, 4]],
}
_DORA = {f"{_MODULE}.self_attn.q_proj.lora_magnitude_vector": ["F32", [64]]}
_SAVED = {"base_model.model.model.embed_tokens.weight": ["F32", [tiny.ROWS, 64]]}
_IA3 = {f"{_MODULE}.self_attn.k_proj.ia3_l": ["F32", [32, 1]]}
_DOWN = {
    f"{_MODULE}.mlp.down_proj.lora_A.weight": ["F32", [2, 32]],
    f"{_MODULE}.mlp.down_proj.lora_B.weight": ["F32", [64, 2]],
}


def _seeds() -> Sequence[bytes]:
    _model()
    patterns = {
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"^.*q_proj$": 2},
        "target_modules": ".*(q|down)_proj",
    }
    found = [
        (_CONFIG, _FACTORS),
        ({**_CONFIG, "use_dora": True, "use_rslora": True}, {**_FACTORS, **_DORA}),
        ({**_CONFIG, "modules_to_save": ["embed_tokens"]}, {**_FACTORS, **_SAVED}),
        ({**_CONFIG, **patterns, "target_modules": ".*(q|down)_proj"}, {**_FACTORS, **_DOWN}),
    ]
    return [tiny.text({"config": config, "tensors": tensors}) for config, tensors in found]


def _by_peft() -> Sequence[bytes]:
    """What PEFT's own layers merge, whose import takes seconds."""
    config = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}
    return [tiny.text({"config": config, "tensors": _IA3})]


@cache
def _model() -> Path:
    return standing(tiny.model())


def _read(parts: dict[str, Any]) -> None:
    place = folder({"adapter_config.json": tiny.text(parts.get("config"))})
    write_sparse(place / "adapter_model.safetensors", parts.get("tensors"), b"\x3c")
    inspect(place)
    plan(_model(), [place])


READER = Reader(
    "adapter",
    _seeds,
    of_parts(_read),
    JsonMutator(
        words=(
            *("lora_A", "lora_B", "target_parameters", "layers_to_transform", "layers_pattern", "exclude_modules"),
            *("trainable_token_indices", "all-linear", "pissa", "gaussian", "all", "lora_only", "LOHA", "OFT", "VERA"),
            *("auto_mapping", "revision", "lora_bias", "use_qalora", "(a+)+$", "[", ".*", "F16", "embed_tokens"),
            {"embed_tokens": [1, 2]},
            [0],
            *_FACTORS,
            *_SAVED,
            *_DORA,
            *_IA3,
        )
    ),
    more=_by_peft,
)
