"""Qwen3-VL with experts (30B-A3B, 235B-A22B), the language model: Qwen3-MoE with Qwen3-VL's M-RoPE and deepstack.

The released checkpoints have the experts of a layer as stacks of transposed matrices, transformers 5 saves the stacks
as it computes with them; which of the two a stack is, its shape says.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.arch import qwen3_moe
from quantkit.arch.base import Architecture, Config, Rule, positive, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.mrope import plain_rope
from quantkit.arch.qwen2 import TOKENIZERS
from quantkit.arch.qwen3vl import vision_metadata
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV

_ARCH, _INNER = "qwen3vlmoe", "moe_intermediate_size"


def metadata(config: Config) -> list[KV]:
    require(config, "norm_topk_prob", True)  # transformers' class computes nothing else
    _check_shapes(config)
    return [
        *qwen3_moe.sparse_metadata(_ARCH, {**plain_rope(config), "norm_topk_prob": True}),
        *vision_metadata(_ARCH, config),
    ]


def _check_shapes(config: Config) -> None:
    """Refuse sizes with which a stack has the same shape both ways."""
    hidden, inner = positive(config, "hidden_size"), positive(config, _INNER)
    if hidden in (inner, 2 * inner):
        raise ArchitectureError(
            f"config.json: hidden_size {hidden} with {_INNER} {inner} is not supported: stacked experts of that shape "
            "may be transposed or not"
        )


def rules(config: Config) -> list[Rule]:
    # A transposed matrix is read as a whole, whichever of its rows are wanted: they are wanted together.
    return [
        replace(rule, unit=rule.shape[1]) if rule.target.endswith("_exps.weight") else rule
        for rule in qwen3_moe.rules(config)
    ]


ARCHITECTURE = Architecture(
    _ARCH,
    metadata,
    rules,
    tokenizers=TOKENIZERS,
    defaults=CLASS_DEFAULTS["qwen3_vl_moe_text"],
    stacks_may_be_turned=True,
)
