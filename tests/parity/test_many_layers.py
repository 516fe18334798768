"""Models that llama.cpp knows by their number of layers: small ones with as many, which the matrix does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantkit.jobs.convert import convert
from tests.support.gguf_compare import differences
from tests.support.llama_model import llama_logits
from tests.support.parity_matrix import pre_tokenizer

Maker = Callable[..., Path]

TOKENS = tuple(range(11, 131, 7))
_SMALL = {"hidden": 64, "intermediate": 64, "heads": 4}
CASES: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # DeepSeek V2-Lite, whose queries are not compressed.
    "deepseek-v2-lite": (
        "deepseek-v2",
        {**_SMALL, "kv_heads": 4, "layers": 27},
        {"q_lora_rank": None, "moe_intermediate_size": 32, "kv_lora_rank": 64},
    ),
    # EXAONE 4 32B, three of four layers with a window.
    "exaone4-32b": (
        "exaone4",
        {**_SMALL, "kv_heads": 2, "layers": 64},
        {
            "head_dim": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 16,
            "sliding_window": 8,
            "sliding_window_pattern": "LLLG",
        },
    ),
    # Command R+, with norms of each head's q and k.
    "command-r-plus": (
        "cohere",
        {**_SMALL, "kv_heads": 2, "layers": 64},
        {"use_qk_norm": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bytes_and_logits(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    kind, shape, config = CASES[name]
    model = checkpoint(kind, dtype="f32", **shape, config=config)
    ours = convert(model, tmp_path / "ours.gguf", outtype="f32")
    vocabulary = {"deepseek-v2": "deepseek-v3", "exaone4": "gpt-2", "cohere": "command-r"}[kind]
    assert differences(ours, reference_gguf(model, "f32", pre=pre_tokenizer(vocabulary))) == []
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        theirs = loaded(torch.tensor([TOKENS])).logits[0].numpy()
    made = llama_logits(ours, TOKENS)
    assert np.abs(made - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert (made.argmax(1) == theirs.argmax(1)).all()
