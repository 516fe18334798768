"""Quantized checkpoints, made of plain ones: float8 in the layouts in which it is published, and bitsandbytes NF4."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.dequantize.bnb4 import CODEBOOKS

BLOCK = 128
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Scheme:
    """A layout.

    Attributes:
        settings: ``quantization_config``; None for a config without it.
        scale: shape of a scale: ``block``, ``row``, ``matrix`` (one number, shape []), ``none``.
        suffix: of the scale's name.
        dtype: of the values.
        scale_dtype: of the scales.
        others: suffixes of tensors that no weight depends on, saved beside each weight.
        own_file: the settings are in hf_quant_config.json, as ModelOpt wrote them at first.
    """

    settings: Mapping[str, Any] | None
    scale: str
    suffix: str = "weight_scale"
    dtype: torch.dtype = torch.float8_e4m3fn
    scale_dtype: torch.dtype = torch.float32
    others: tuple[str, ...] = ()
    own_file: bool = False


def _compressed(strategy: str, **weights: Any) -> dict[str, Any]:
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme, "input_activations": None}}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "config_groups": groups,
    }


_BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
_INV = "weight_scale_inv"
# Those that llama.cpp's converter reads.
CONVERTED = {
    "deepseek": Scheme(_BLOCKS, "block", _INV),
    "deepseek-bf16-scales": Scheme(_BLOCKS, "block", _INV, scale_dtype=torch.bfloat16),
    "deepseek-powers-of-two": Scheme(
        {**_BLOCKS, "scale_fmt": "ue8m0"}, "block", _INV, scale_dtype=torch.float8_e8m0fnu
    ),
    "ministral": Scheme(
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        "matrix",
        _INV,
        others=("activation_scale",),
    ),
    "compressed-rows": Scheme(_compressed("channel"), "row", scale_dtype=torch.bfloat16),
    "compressed-blocks": Scheme(_compressed("block", block_structure=[BLOCK, BLOCK]), "block"),
    "modelopt": Scheme({"quant_method": "modelopt", "quant_algo": "FP8"}, "matrix", others=("input_scale",)),
    "modelopt-own-file": Scheme(
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
        "matrix",
        others=("input_scale",),
        own_file=True,
    ),
    "plain-e4m3": Scheme(None, "none"),
    "plain-e5m2": Scheme(None, "none", dtype=torch.float8_e5m2),
}
# And those that it does not.
OTHERS = {
    "fbgemm": Scheme({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "row"),
    "compressed-matrix": Scheme(_compressed("tensor"), "matrix", others=("input_scale",)),
    "autofp8": Scheme({"quant_method": "fp8", "activation_scheme": "static"}, "matrix", others=("input_scale",)),
}
SCHEMES = {**CONVERTED, **OTHERS}


def make_fp8(folder: Path, plain: Path, scheme: Scheme) -> Path:
    """Write *plain* with the matrices of its layers in float8."""

    def pack(module: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        values, scale = quantize(weight, scheme)
        scales = {} if scale is None else {f"{module}.{scheme.suffix}": scale}
        return {
            f"{module}.weight": values,
            **scales,
            **{f"{module}.{name}": torch.tensor(0.5) for name in scheme.others},
        }

    _rewrite(folder, plain, None if scheme.own_file else scheme.settings, pack)
    if scheme.own_file:
        (folder / "hf_quant_config.json").write_text(json.dumps(scheme.settings), encoding="utf-8")
    return folder


def make_nf4(folder: Path, plain: Path) -> Path:
    """Write *plain* with the matrices of its layers in NF4: blocks of 64, each weight as the nearest code."""

    def pack(module: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        blocks = weight.reshape(-1, 64)
        absmax = blocks.abs().amax(1).clamp(min=1e-6)
        codebook = torch.tensor(CODEBOOKS["nf4"])
        codes = ((blocks / absmax[:, None])[:, :, None] - codebook).abs().argmin(2).reshape(-1, 2).to(torch.uint8)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
        return {
            f"{module}.weight": codes[:, :1] * 16 + codes[:, 1:],
            f"{module}.weight.absmax": absmax,
            f"{module}.weight.quant_map": codebook,
            f"{module}.weight.quant_state.bitsandbytes__nf4": torch.tensor(
                list(json.dumps(state).encode()), dtype=torch.uint8
            ),
        }

    return _rewrite(folder, plain, {"quant_method": "bitsandbytes", "load_in_4bit": True}, pack)


def _rewrite(
    folder: Path,
    plain: Path,
    settings: Mapping[str, Any] | None,
    pack: Callable[[str, torch.Tensor], dict[str, torch.Tensor]],
) -> Path:
    """Copy a checkpoint, its layers' matrices as *pack* stores them."""
    shutil.copytree(plain, folder)
    if settings is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}), encoding="utf-8")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        is_matrix = ".layers." in name and tensor.dim() == 2
        tensors |= pack(name.removesuffix(".weight"), tensor.float()) if is_matrix else {name: tensor}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def quantize(weight: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values and scale of a float32 matrix."""
    if scheme.scale == "none":
        return weight.to(scheme.dtype), None
    rows, columns = weight.shape
    size = {"block": (BLOCK, BLOCK), "row": (1, columns), "matrix": (rows, columns)}[scheme.scale]
    largest = torch.stack(
        [torch.stack([part.abs().max() for part in band.split(size[1], 1)]) for band in weight.split(size[0])]
    )
    scale = (largest / 448).clamp(min=1e-6).to(scheme.scale_dtype)
    spread = scale.float().repeat_interleave(size[0], 0).repeat_interleave(size[1], 1)[:rows, :columns]
    values = (weight / spread).clamp(-448, 448).to(scheme.dtype)
    return values, scale.reshape(()) if scheme.scale == "matrix" else scale


def make_mxfp4(folder: Path, plain: Path) -> Path:
    """A gpt-oss whose experts are stored as they were published: each matrix as [out, in], in blocks of MXFP4."""
    shutil.copytree(plain, folder)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj") and ".experts." in name:
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = _to_mxfp4(tensor.float().transpose(1, 2))
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    whole = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": whole}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _to_mxfp4(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks [..., n / 32, 16] and exponents [..., n / 32]; two neighbors are a byte, the first in the lower bits."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    power = torch.frexp(blocks.abs().amax(-1))[1].int() - 3  # of the largest magnitude, which becomes 4 to 8
    scaled = torch.ldexp(blocks, -power[..., None])
    codes = (scaled.abs()[..., None] - torch.tensor(_E2M1)).abs().argmin(-1) + 8 * (scaled < 0)
    pairs = codes.to(torch.uint8).reshape(*codes.shape[:-1], 16, 2)
    return pairs[..., 0] | pairs[..., 1] << 4, (power + 127).to(torch.uint8)
