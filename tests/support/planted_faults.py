"""Faults planted into tiny models, as a converter with a fault would write them: sound files in every byte check.

A fault changes what is converted (weights, config, adapter), while transformers is given what was trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], None]
WEIGHTS, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
_LAYER = "model.layers.1."


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        caught: whether a proof of the F16 file finds it.
        weights: changes the model's tensors.
        config: settings of config.json that replace its own; None removes one.
        adapter: changes the adapter's tensors.
        without_adapter: the adapter is left out.
        kind: of the model.
        trained: settings of config.json that the model was trained with, over the kind's.
    """

    caught: bool
    weights: Change | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Change | None = None
    without_adapter: bool = False
    kind: str = "llama3-untied"
    trained: Mapping[str, Any] = field(default_factory=dict)


def _each(ending: str, change: Callable[[torch.Tensor], torch.Tensor], beginning: str = "") -> Change:
    """Change the tensors whose names end, and begin, so."""

    def apply(tensors: Tensors) -> None:
        names = [name for name in tensors if name.endswith(ending) and name.startswith(beginning)]
        assert names, f"no tensor ends with {ending}"
        for name in names:
            tensors[name] = change(tensors[name]).contiguous()

    return apply


def _swap(one: str, other: str) -> Change:
    """Exchange tensors of one layer."""

    def apply(tensors: Tensors) -> None:
        first, second = _LAYER + one, _LAYER + other
        assert tensors[first].shape == tensors[second].shape
        tensors[first], tensors[second] = tensors[second], tensors[first]

    return apply


def _swap_layers(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".layers.0." in name]:
        other = name.replace(".layers.0.", ".layers.1.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def _tie(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def _rows(heads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rows as another rotary embedding pairs them."""
    return lambda w: w.view(heads, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)


def _first_row(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.clone()
        weight[0] *= value
        return weight

    return change


def _one_weight(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.clone()
    weight[7, 7] = -weight[7, 7]
    return weight


def _coarser(weight: torch.Tensor) -> torch.Tensor:
    return weight.bfloat16().to(weight.dtype)


PLUS_ONE: Callable[[torch.Tensor], torch.Tensor] = lambda norm: norm + 1  # noqa: E731
FAULTS: dict[str, Fault] = {
    "all norms one too high": Fault(True, _each("norm.weight", PLUS_ONE)),
    "one norm one too high": Fault(True, _each("input_layernorm.weight", PLUS_ONE, _LAYER)),
    "norms one too low (Gemma)": Fault(True, _each("norm.weight", lambda norm: norm - 1), kind="gemma2"),
    "rope base 10,000 for 500,000": Fault(True, config={"rope_theta": 10000.0}),
    "rope scaling left out": Fault(True, config={"rope_scaling": None}, kind="llama-linear-rope"),
    "rows of q in the other rope order": Fault(True, _each("q_proj.weight", _rows(8), _LAYER)),
    "gate and up swapped in one layer": Fault(True, _swap("mlp.gate_proj.weight", "mlp.up_proj.weight")),
    "k and v swapped in one layer": Fault(True, _swap("self_attn.k_proj.weight", "self_attn.v_proj.weight")),
    "two layers swapped": Fault(True, _swap_layers),
    "o transposed in one layer": Fault(True, _each("o_proj.weight", lambda weight: weight.T, _LAYER)),
    "head taken for the embedding": Fault(True, _tie),
    "embedding shifted by one token": Fault(True, _each("embed_tokens.weight", lambda weight: weight.roll(1, 0))),
    "biases left out": Fault(True, _each("proj.bias", torch.zeros_like), kind="llama-biases"),
    "two experts swapped in one layer": Fault(
        True, _swap("block_sparse_moe.experts.0.w1.weight", "block_sparse_moe.experts.1.w1.weight"), kind="mixtral"
    ),
    "softcapping of the logits at 10 for 30": Fault(True, config={"final_logit_softcapping": 10.0}, kind="gemma2"),
    "window of attention left out": Fault(
        True, config={"sliding_window": None}, kind="mistral", trained={"sliding_window": 16}
    ),
    "adapter left out": Fault(True, without_adapter=True),
    "adapter merged twice": Fault(True, adapter=_each("lora_B.weight", lambda factor: 2 * factor)),
    "adapter with the wrong sign": Fault(True, adapter=_each("lora_B.weight", torch.neg)),
    "adapter left out in one module": Fault(
        True, adapter=_each("layers.1.self_attn.q_proj.lora_B.weight", torch.zeros_like)
    ),
    "norm epsilon 1e-6 for 1e-5": Fault(True, config={"rms_norm_eps": 1e-6}),
    "weights rounded to BF16 on the way": Fault(True, _each("proj.weight", _coarser)),
    "one row of 256 zeroed in one matrix": Fault(False, _each("down_proj.weight", _first_row(0.0), _LAYER)),
    "sign of one weight": Fault(False, _each("down_proj.weight", _one_weight, _LAYER)),
    "context length": Fault(False, config={"max_position_embeddings": 65536}),
    "window longer than the texts": Fault(False, config={"sliding_window": None}, kind="mistral"),
    "row of a token that is in no text": Fault(False, _each("embed_tokens.weight", _first_row(3.0))),
}


def plant(folder: Path, model: Path, adapter: Path | None, fault: Fault) -> tuple[Path, Path | None]:
    """Write the model and the adapter that the faulty converter would see; the originals stay.

    Args:
        folder: created.
        model, adapter: as trained.
        fault: what is wrong.

    Returns:
        The model, and the adapter or None.
    """
    shutil.copytree(model, folder / "model")
    if fault.weights is not None:
        _rewrite(folder / "model" / WEIGHTS, fault.weights)
    config = folder / "model" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | dict(fault.config)
    settings = {key: value for key, value in settings.items() if value is not None or key == "sliding_window"}
    config.write_text(json.dumps(settings), encoding="utf-8")
    if adapter is None or fault.without_adapter:
        return folder / "model", None
    shutil.copytree(adapter, folder / "adapter")
    if fault.adapter is not None:
        _rewrite(folder / "adapter" / ADAPTER_WEIGHTS, fault.adapter)
    return folder / "model", folder / "adapter"


def _rewrite(file: Path, change: Change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
