"""Adapters on transformers' model, applied by PEFT and not merged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantkit.errors import AdapterError
from quantkit.prove.judged import Judged
from quantkit.prove.plan import check_sums, resized_rows


def add_adapters(model: Any, judged: Judged, *, by_layer: bool) -> None:
    """Apply the adapters to *model*, in place.

    Args:
        model: with its weights, or with placeholders for them if its layers are loaded one at a time.
        judged: what is judged.
        by_layer: whether they are.

    Raises:
        AdapterError: PEFT does not read an adapter's file, or cannot apply several at once.
    """
    if not judged.adapters:
        return
    from peft import PeftModel

    check_sums(judged)
    embedding = model.get_input_embeddings().weight
    rows = next((rows for folder, _ in judged.adapters if (rows := resized_rows(folder)) is not None), None)
    if rows is not None and rows != embedding.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    options: dict[str, Any] = {
        "low_cpu_mem_usage": by_layer,  # tensors of the file take the place of PEFT's own
        "torch_device": judged.device,
        "is_trainable": False,
    }
    names = [f"adapter_{number}" for number in range(len(judged.adapters))]
    wrapped: Any = None
    for name, (folder, weight) in zip(names, judged.adapters, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # checked below
            if wrapped is None:
                wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=name, **options)
            else:
                wrapped.load_adapter(str(folder), adapter_name=name, **options)
        _check_loaded(wrapped, folder, name)
        _weigh(wrapped, name, weight)
    if len(names) > 1:
        wrapped.base_model.set_adapter(names)
    _fill_missing(model, torch.device(judged.device))
    model.requires_grad_(False)


def _check_loaded(wrapped: Any, folder: Path, name: str) -> None:
    """Check that PEFT took every tensor of the adapter's file: it drops names that it does not know."""
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    stored = load_peft_weights(str(folder), device="cpu")
    taken = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=True)
    dropped = [key for key in stored if key not in taken]
    if dropped:
        raise AdapterError(
            f"{folder}: PEFT does not take {dropped[0]!r} ({len(dropped)} of {len(stored)} tensors), so the model that "
            "was trained cannot be run unmerged",
            hint="save the adapter with PEFT's save_pretrained, or leave out --prove",
        )


def _weigh(wrapped: Any, name: str, weight: float) -> None:
    for module in wrapped.modules():
        scaling = getattr(module, "scaling", None)
        if weight != 1 and isinstance(scaling, dict) and name in scaling:
            scaling[name] *= weight


def _fill_missing(model: nn.Module, device: torch.device) -> None:
    """Factors of modules that the file leaves out, which PEFT begins without effect, are zero."""
    for path, parameter in list(model.named_parameters()):
        if parameter.is_meta and ".lora_" in path:
            owner, _, leaf = path.rpartition(".")
            zeros = torch.zeros(parameter.shape, device=device)
            model.get_submodule(owner)._parameters[leaf] = nn.Parameter(zeros, requires_grad=False)
