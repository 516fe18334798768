"""MLX's quantization settings: of weights that MLX quantized, and of weights that it wrote plain.

mlx-lm writes ``quantization`` (``group_size``, ``bits``) into config.json, and the same as ``quantization_config``. Its
``fuse --dequantize`` removes only the first, so the second says nothing about the weights. The tensors do: MLX's
quantized weights are U32, with ``.scales`` and ``.biases`` beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.checkpoint.dequantize.refusal import original_model
from quantkit.checkpoint.dequantize.stored import Stored
from quantkit.errors import CheckpointError

KEYS = ("quantization_config", "quantization")
"""The keys of config.json."""
_SCALES = ".scales"


def is_mlx(settings: Any) -> bool:
    """Whether settings are MLX's: it names no method."""
    return (
        isinstance(settings, Mapping) and "quant_method" not in settings and {"group_size", "bits"} <= settings.keys()
    )


def without_mlx(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without MLX's settings."""
    return {key: value for key, value in config.items() if key not in KEYS or not is_mlx(value)}


def check_mlx(stored: Stored) -> tuple[str, ...]:
    """Refuse weights that MLX quantized.

    Returns:
        A note, if config.json has MLX's settings and the weights are plain.

    Raises:
        CheckpointError: naming a tensor, and how to dequantize it.
    """
    for name, spec in stored.tensors.items():
        scales = name.removesuffix(".weight") + _SCALES
        if spec.dtype == "U32" and name.endswith(".weight") and scales in stored.tensors:
            source = original_model(stored.path, stored.config) or "the bf16 or f16 checkpoint that it was made from"
            raise CheckpointError(
                f"{spec.file}: tensor {name!r} is quantized by MLX (U32, with {scales!r} beside it), which quantkit "
                "cannot read",
                hint=f"use {source}; or dequantize it: mlx_lm.convert --hf-path {stored.path.name} --mlx-path OUT -d "
                "(an adapter: mlx_lm.fuse --dequantize)",
            )
    if any(is_mlx(stored.config.get(key)) for key in KEYS):
        return (
            f"{stored.path.name}: config.json has settings of an MLX quantization, but the weights are not quantized: "
            "they are used as they are",
        )
    return ()
