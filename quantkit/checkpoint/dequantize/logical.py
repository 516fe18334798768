"""Checkpoints with quantized weights, seen as the dequantized weights.

Such a checkpoint opens like any other: its tensors have their logical names and shapes, and reading rows of a tensor
dequantizes these rows to float32. These are the values that the adapter was trained on, except for the last rounding to
the compute type, which a merge must not do twice. Each format has its own file here; other formats are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.checkpoint.dequantize.bnb import bitsandbytes_weights
from quantkit.checkpoint.dequantize.fp8 import fp8_weights, plain_fp8_weights
from quantkit.checkpoint.dequantize.mlx import check_mlx, is_mlx, without_mlx
from quantkit.checkpoint.dequantize.mxfp4 import mxfp4_weights
from quantkit.checkpoint.dequantize.refusal import refusal
from quantkit.checkpoint.dequantize.stored import CONFIG_HINT, DequantizedFile, Quantized, Stored, StoredBlocks
from quantkit.checkpoint.dtypes import FLOATS
from quantkit.checkpoint.tensor_file import TensorFile, TensorSpec
from quantkit.errors import CheckpointError

_READERS: dict[str, Callable[[Stored], list[Quantized]]] = {
    "bitsandbytes": bitsandbytes_weights,
    "compressed-tensors": fp8_weights,
    "fbgemm_fp8": fp8_weights,
    "fp8": fp8_weights,
    "modelopt": fp8_weights,
    "mxfp4": mxfp4_weights,
}
# The keys of the settings in config.json; the second is the name in early compressed-tensors checkpoints.
_KEYS = ("quantization_config", "compression_config")
# Tensors that belong to activations or to the KV cache; no weight depends on them.
_NOT_OF_WEIGHTS = (".input_scale", ".input_scale_ub", "activation_scale", ".k_scale", ".v_scale")


@dataclass(frozen=True)
class Logical:
    """A checkpoint with its weights dequantized.

    Attributes:
        config: config.json without the settings of the quantization.
        tensors: by name; the quantized ones count as F32.
        files: the files that read them.
        formats: by name of a quantized tensor, the format that it is stored in.
        blocks: by name, those whose blocks ggml has.
        notes: for the user.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    files: Mapping[Path, TensorFile]
    formats: Mapping[str, str]
    blocks: Mapping[str, StoredBlocks]
    notes: tuple[str, ...] = ()


def quantization_settings(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantization settings in config.json, always with ``quant_method``; empty if the weights are not quantized.

    Raises:
        CheckpointError: they are not a JSON object.
    """
    found = (config[key] for key in _KEYS if config.get(key) and not is_mlx(config[key]))
    settings = next(found, None) or _modelopt_settings(path)
    if not settings:
        return {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{path / 'config.json'}: quantization_config is not a JSON object", hint=CONFIG_HINT)
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"  # configs that are older than the setting quant_method
    if method == "modelopt" and not settings.get("quant_algo"):
        settings = {**settings, **(_modelopt_settings(path) or {})}
    return {**settings, "quant_method": str(method or "unknown")}


def _looks_plain(stored: Stored) -> bool:
    """Whether all tensors are floats with the names of a model that is not quantized."""
    return all(spec.dtype in FLOATS and name.endswith((".weight", ".bias")) for name, spec in stored.tensors.items())


def logical_checkpoint(stored: Stored) -> Logical:
    """See a checkpoint as its dequantized weights.

    Args:
        stored: its tensors as in the files, and the settings from :func:`quantization_settings`.

    Raises:
        CheckpointError: the format cannot be dequantized (the message names it and the reason), or a tensor is not as
            its format wants it.
    """
    notes = check_mlx(stored)
    method = stored.settings.get("quant_method")
    if method and method not in _READERS and not _looks_plain(stored):
        raise refusal(stored.path, stored.config, method)
    read = _READERS.get(method, lambda stored: []) if method else plain_fp8_weights
    weights = read(stored)
    if method and not weights and not _looks_plain(stored):
        raise refusal(stored.path, stored.config, method)
    if method and not weights:
        raise CheckpointError(
            f"{stored.path}: config.json says that the weights are quantized ({method}), but none of them is",
            hint="if these are the bf16 or f16 weights, remove quantization_config from config.json",
        )
    placed = {weight.place: weight for weight in weights}
    gone = {part for weight in weights for part in weight.parts}
    if method:
        gone |= {name for name in stored.tensors if name.endswith(_NOT_OF_WEIGHTS)}
    tensors = {
        placed[name].name if name in placed else name: placed[name].spec if name in placed else spec
        for name, spec in stored.tensors.items()
        if name in placed or name not in gone
    }
    by_name = {weight.name: weight for weight in weights}
    files = {path: DequantizedFile(file, by_name) for path, file in stored.files.items()} if weights else stored.files
    formats = {weight.name: weight.format for weight in weights}
    blocks = {weight.name: weight.blocks for weight in weights if weight.blocks is not None}
    config = {key: value for key, value in without_mlx(stored.config).items() if key not in _KEYS}
    return Logical(config, tensors, files, formats, blocks, notes)


def _modelopt_settings(path: Path) -> Mapping[str, Any] | None:
    """The settings in ModelOpt's own file, from before it wrote them into config.json; None without the file."""
    file = path / "hf_quant_config.json"
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return {**value["quantization"], "quant_method": str(value["producer"]["name"]).lower()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{file}: not a ModelOpt quantization config", hint="download the file again") from None
