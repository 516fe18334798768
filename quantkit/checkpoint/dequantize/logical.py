"""Checkpoints whose weights are stored quantized, seen as the weights they stand for.

Such a checkpoint opens as any other: its tensors have their logical names and shapes, and reading rows of one
dequantizes those rows to float32. That is the number the training of an adapter saw, but for its last rounding to the
compute type, which a merge must not do twice. One format is one file here; what is not listed is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.checkpoint.dequantize.bnb import bitsandbytes_weights
from quantkit.checkpoint.dequantize.fp8 import fp8_weights, plain_fp8_weights
from quantkit.checkpoint.dequantize.refusal import refusal
from quantkit.checkpoint.dequantize.stored import CONFIG_HINT, DequantizedFile, Quantized, Stored
from quantkit.checkpoint.tensor_file import TensorFile, TensorSpec
from quantkit.errors import CheckpointError

_READERS: dict[str, Callable[[Stored], list[Quantized]]] = {
    "bitsandbytes": bitsandbytes_weights,
    "compressed-tensors": fp8_weights,
    "fbgemm_fp8": fp8_weights,
    "fp8": fp8_weights,
    "modelopt": fp8_weights,
}
# Where config.json keeps the settings; the second is the name in early compressed-tensors checkpoints.
_KEYS = ("quantization_config", "compression_config")
# Tensors that belong to activations or to the cache of keys and values; no weight depends on them.
_NOT_OF_WEIGHTS = (".input_scale", ".input_scale_ub", "activation_scale", ".k_scale", ".v_scale")


@dataclass(frozen=True)
class Logical:
    """What a checkpoint stands for.

    Attributes:
        config: config.json without the settings of the quantization.
        tensors: by name; the quantized ones count as F32.
        files: that read them.
        formats: by name of a quantized tensor, the format it is stored in.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: Mapping[Path, TensorFile]
    formats: Mapping[str, str]


def quantization_settings(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How config.json says that the weights are quantized, ``quant_method`` always named; empty when they are not.

    Raises:
        CheckpointError: by name, a format that is not dequantized, with the reason.
    """
    settings = next((config[key] for key in _KEYS if config.get(key)), None) or _modelopt_settings(path)
    if not settings:
        return {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{path / 'config.json'}: quantization_config is no JSON object", hint=CONFIG_HINT)
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"  # configs from before transformers named the method
    if not isinstance(method, str) or method not in _READERS:
        raise refusal(path, config, str(method or "unknown"))
    if method == "modelopt" and not settings.get("quant_algo"):
        settings = {**settings, **(_modelopt_settings(path) or {})}
    return {**settings, "quant_method": method}


def logical_checkpoint(stored: Stored) -> Logical:
    """See a checkpoint as the weights it stands for.

    Args:
        stored: its tensors as they are in the files, and the settings of :func:`quantization_settings`.

    Raises:
        CheckpointError: naming the tensor that does not fit its format.
    """
    method = stored.settings.get("quant_method")
    weights = _READERS[method](stored) if method else plain_fp8_weights(stored)
    if method and not weights:
        raise CheckpointError(
            f"{stored.path}: config.json says that the weights are already quantized ({method}), but none is",
            hint="take quantization_config out of config.json if these are the bf16 or f16 weights",
        )
    by_name = {weight.name: weight for weight in weights}
    gone = {part for weight in weights for part in weight.parts}
    if method:
        gone |= {name for name in stored.tensors if name.endswith(_NOT_OF_WEIGHTS)}
    tensors = {
        name: by_name[name].spec if name in by_name else spec
        for name, spec in stored.tensors.items()
        if name in by_name or name not in gone
    }
    files = {path: DequantizedFile(file, by_name) for path, file in stored.files.items()} if weights else stored.files
    formats = {weight.name: weight.format for weight in weights}
    config = {key: value for key, value in stored.config.items() if key not in _KEYS}
    return Logical(config, tensors, files, formats)


def _modelopt_settings(path: Path) -> Mapping[str, Any] | None:
    """The settings that ModelOpt wrote into a file of their own before it wrote them into config.json."""
    file = path / "hf_quant_config.json"
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return {**value["quantization"], "quant_method": str(value["producer"]["name"]).lower()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{file}: not a ModelOpt quantization config", hint="download the file again") from None
