"""The unquantized types f32, f16 and bf16, with their names in ggml, torch, safetensors and config.json."""

from __future__ import annotations

import torch

from quantkit.ggml.types import UNQUANTIZED, GGMLType

# Torch's dtypes by ggml's types, and back.
TORCH_DTYPES: dict[GGMLType, torch.dtype] = {
    GGMLType.F32: torch.float32,
    GGMLType.F16: torch.float16,
    GGMLType.BF16: torch.bfloat16,
}
GGML_TYPES: dict[torch.dtype, GGMLType] = {dtype: kind for kind, dtype in TORCH_DTYPES.items()}
# By the names in a safetensors header ("BF16"), which are the same as those of ggml's types.
SAFETENSORS_DTYPES: dict[str, torch.dtype] = {kind.name: dtype for kind, dtype in TORCH_DTYPES.items()}
# The names in config.json ("bfloat16"), which are torch's, by the names of --outtype and --dtype ("bf16").
CONFIG_NAMES: dict[str, str] = {
    label: str(TORCH_DTYPES[kind]).removeprefix("torch.") for label, kind in UNQUANTIZED.items()
}
