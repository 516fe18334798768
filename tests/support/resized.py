"""Adapters trained after tokens were added: made, saved and merged by PEFT and transformers themselves."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_EXPECTED = "|".join(
    [
        "Setting `save_embedding_layers` to `True`",
        "Model (with|has) `tie_word_embeddings=True`|Input and output embeddings are no longer tied",
    ]
)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@contextmanager
def _expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_EXPECTED)
        yield


def make_resized_adapter(folder: Path, base: Path, rows: int, *, tokenizer: Path | None = None, **lora: Any) -> Path:
    """An adapter of *base* with its vocabulary resized to *rows*, saved by PEFT.

    Args:
        folder: created.
        base: the base checkpoint.
        rows: of embedding and head in training.
        tokenizer: folder of the tokenizer to put beside it.
        lora: LoraConfig's settings over LoRA on q.
    """
    from peft import LoraConfig, get_peft_model

    model = _resized(base, rows)
    with _expected_warnings():
        model = get_peft_model(
            model, LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"], **lora})
        )
        generator = torch.Generator().manual_seed(5)
        for name, weight in sorted(model.named_parameters()):
            if weight.requires_grad:
                noise = torch.randn(weight.shape, generator=generator) * 0.05
                weight.data = noise if ".lora_" in name else weight.data + noise
        model.save_pretrained(folder)
    for name in TOKENIZER if tokenizer else ():
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


def merge_with_peft(folder: Path, base: Path, adapter: Path, rows: int, tokenizer: Path) -> Path:
    """What PEFT and transformers write: the base resized, the adapter merged, the tokenizer beside it."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    with _expected_warnings():
        model = PeftModel.from_pretrained(_resized(base, rows), adapter).merge_and_unload(safe_merge=True)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def state(base: Path, adapter: Path, rows: int) -> Mapping[str, torch.Tensor]:
    """PEFT's merged tensors, float32."""
    from peft import PeftModel

    with _expected_warnings():
        model = PeftModel.from_pretrained(_resized(base, rows), adapter).merge_and_unload(safe_merge=True)
    tensors: Mapping[str, torch.Tensor] = model.state_dict()
    return tensors


def _resized(base: Path, rows: int) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return model
