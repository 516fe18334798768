"""GLM-4.1V and GLM-4.6V-Flash, the language model: GLM-4-0414 with M-RoPE, whose sections follow each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch import glm4
from quantkit.arch.base import Architecture, Config, Rule
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import require_plain_heads, sizes
from quantkit.arch.mrope import plain_rope, sections
from quantkit.arch.rope import rotated
from quantkit.gguf.kv import KV

_ROTATED = (".attn_q.", ".attn_k.")


def metadata(config: Config) -> list[KV]:
    require_plain_heads(config)
    plain = plain_rope(config)
    return [*glm4.metadata(plain), *sections("glm4", config, rotated(plain), interleaved=False)]


def rules(config: Config) -> list[Rule]:
    size, part = sizes(config), rotated(plain_rope(config))
    # transformers rotates neighboring elements, llama.cpp's M-RoPE two halves.
    return [
        replace(rule, arrange=lambda rows: halves_of_pairs(rows, size.head, part), unit=size.head)
        if any(name in rule.target for name in _ROTATED)
        else rule
        for rule in glm4.rules({**config, "attention_bias": True})
    ]


def halves_of_pairs(rows: npt.NDArray[Any], size: int, part: int) -> npt.NDArray[Any]:
    """Reorder the rotated rows of whole q or k heads from adjacent pairs to two halves.

    Args:
        rows: shape [heads * size, ...].
        size: rows of a head.
        part: the first of them, which are rotated.
    """
    heads = rows.reshape(-1, size, *rows.shape[1:])
    turned = heads[:, :part]
    return np.concatenate([turned[:, ::2], turned[:, 1::2], heads[:, part:]], axis=1).reshape(rows.shape)


ARCHITECTURE = Architecture(
    "glm4", metadata, rules, vocabulary=glm4.ARCHITECTURE.vocabulary, defaults=CLASS_DEFAULTS["glm4v_text"]
)
