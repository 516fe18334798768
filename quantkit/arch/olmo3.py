"""OLMo 3: OLMo 2 with a sliding window in three of four layers, which YaRN does not scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch import olmo2
from quantkit.arch.base import Architecture, Config, layers, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.layer_types import FULL, WINDOW, layer_types
from quantkit.arch.rope import check_scaling, rope, rope_base
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array, f32, u32

_PERIOD = 4


def metadata(config: Config) -> list[KV]:
    usual = [WINDOW if (i + 1) % _PERIOD else FULL for i in range(layers(config))]
    kinds = layer_types(config, (WINDOW, FULL), usual)
    settings = _rotary(config)
    return [
        *olmo2.metadata({**config, "rope_parameters": settings, "rope_scaling": None}),
        f32("olmo2.rope.freq_base_swa", rope_base(settings)),
        u32("olmo2.attention.sliding_window", positive(config, "sliding_window")),
        array("olmo2.attention.sliding_window_pattern", [kind == WINDOW for kind in kinds], KVType.BOOL),
    ]


def _rotary(config: Config) -> Mapping[str, Any]:
    """The settings of the layers without a window; those with one must have the same base and no scaling.

    Raises:
        ArchitectureError: llama.cpp has no such bases, or transformers would pass over the settings.
    """
    settings, nested = rope(config, FULL), config.get("rope_parameters") or {}
    if nested and not config.get("rope_scaling") and not any(kind in nested for kind in (FULL, WINDOW)):
        raise ArchitectureError(
            f"config.json: rope_parameters {str(nested)[:120]} is not supported for this model: transformers reads "
            f"{FULL} and {WINDOW} in it",
            hint=f"put the settings into an object {FULL!r}, or call it rope_scaling",
        )
    local = {} if config.get("rope_scaling") else nested.get(WINDOW) or {}
    check_scaling(rope({"rope_parameters": local}), ())
    # transformers takes a base outside of the objects for the layers without a window only.
    base = rope_base({"rope_theta": CLASS_DEFAULTS["olmo3"]["rope_theta"], **local})
    require({"rope_theta": rope_base(settings)}, "rope_theta", base, where="config.json: layers without a window")
    return settings


ARCHITECTURE = Architecture("olmo2", metadata, olmo2.rules, defaults=CLASS_DEFAULTS["olmo3"])
