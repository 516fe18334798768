"""Qwen2-VL and Qwen2.5-VL, the language model: Qwen2 with M-RoPE, whose sections follow each other."""

from __future__ import annotations

from quantkit.arch import qwen2
from quantkit.arch.base import Architecture, Config, head_dim, number
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


def notes(config: Config) -> list[str]:
    """What llama.cpp's graph leaves out: its loader does not read the epsilon of this family's norms from the file."""
    epsilon = number(config, "rms_norm_eps")
    said = f"llama.cpp adds nothing to the mean squares in this family's norms, the model adds {epsilon:g}"
    return [f"{said}: logits differ by about a thousandth, and more if the embeddings are small"] if epsilon else []


ARCHITECTURE = Architecture(
    "qwen2vl",
    metadata,
    qwen2.rules,
    tokenizers=qwen2.TOKENIZERS,
    defaults=CLASS_DEFAULTS["qwen2_vl_text"],
    notes=notes,
)
