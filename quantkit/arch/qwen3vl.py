"""Qwen3-VL, the language model: Qwen3 with interleaved M-RoPE; its first layers also take what is seen (deepstack)."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.arch import qwen3
from quantkit.arch.base import Architecture, Config, head_dim, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.mrope import plain_rope, sections
from quantkit.arch.qwen2 import TOKENIZERS, qwen_metadata
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

# transformers' default of the vision part's layers whose results go into the first layers of the language model.
_DEEPSTACK = (8, 16, 24)


def metadata(config: Config) -> list[KV]:
    require(config, "attention_bias", False)
    return [*qwen_metadata("qwen3vl", plain_rope(config)), *vision_metadata("qwen3vl", config)]


def vision_metadata(arch: str, config: Config) -> list[KV]:
    """What the language model has for its vision part: the sections of M-RoPE, and the number of deepstack layers.

    Raises:
        ArchitectureError: the sections do not fit, or the layers of the vision part are not listed.
    """
    vision = config.get("vision_config")
    deep = vision.get("deepstack_visual_indexes") if isinstance(vision, Mapping) else ()
    if deep is None:
        deep = _DEEPSTACK
    if not isinstance(deep, list | tuple):
        raise ArchitectureError(f"config.json: deepstack_visual_indexes is {str(deep)[:80]}; expected a list")
    return [
        *sections(arch, config, head_dim(config), interleaved=True),
        u32(f"{arch}.n_deepstack_layers", len(deep)),
    ]


ARCHITECTURE = Architecture(
    "qwen3vl", metadata, qwen3.rules, tokenizers=TOKENIZERS, defaults=CLASS_DEFAULTS["qwen3_vl_text"]
)
