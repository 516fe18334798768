"""Qwen2-VL and Qwen2.5-VL, the language model: Qwen2 with M-RoPE, whose sections follow each other.

llama.cpp's graph takes an epsilon of 0 for the norms, whatever the file says; of the released models' 1e-6 that is no
difference that a logit shows.
"""

from __future__ import annotations

from quantkit.arch import qwen2
from quantkit.arch.base import Architecture, Config, head_dim
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import require_plain_heads
from quantkit.arch.mrope import plain_rope, sections
from quantkit.gguf.kv import KV


def metadata(config: Config) -> list[KV]:
    require_plain_heads(config)
    return [
        *qwen2.qwen_metadata("qwen2vl", plain_rope(config)),
        *sections("qwen2vl", config, head_dim(config), interleaved=False),
    ]


ARCHITECTURE = Architecture(
    "qwen2vl", metadata, qwen2.rules, tokenizers=qwen2.TOKENIZERS, defaults=CLASS_DEFAULTS["qwen2_vl_text"]
)
