"""Ministral 3: Mistral, whose queries grow with the position (Llama 4's scaling), with YaRN."""

from __future__ import annotations

from quantkit.arch import llama, mistral
from quantkit.arch.base import Architecture, Config, head_dim, number, require, window_note
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.rope import YarnGraph, rope
from quantkit.gguf.kv import KV, f32

_WHERE = "config.json: rope_parameters"


def metadata(config: Config) -> list[KV]:
    settings = rope(config)
    require({"rope_type": settings.get("rope_type") or "default"}, "rope_type", "yarn", where=_WHERE)
    multiplier = number(settings, "mscale_all_dim", _WHERE, above=0)
    yarn = YarnGraph(betas=True, log_multiplier=multiplier)
    return [
        *llama.llama_metadata("mistral3", {**config, "head_dim": head_dim(config)}, ("yarn",), yarn),
        f32("mistral3.rope.scaling.yarn_log_multiplier", multiplier),
        f32("mistral3.attention.temperature_scale", number(settings, "llama_4_scaling_beta", _WHERE, above=0)),
    ]


ARCHITECTURE = Architecture(
    "mistral3",
    metadata,
    mistral.rules,
    tokenizers=llama.TOKENIZERS,
    vocabulary=llama.VOCABULARY,
    defaults=CLASS_DEFAULTS["ministral3"],
    notes=window_note,
)
