"""Weights in 8-bit floating point, with a scale per tensor, per row, or per block.

All of them are ``value * scale`` in float32, whatever the scale's name: DeepSeek's and Qwen's ``weight_scale_inv``
(blocks of 128 by 128; the inverse of the quantization factor, so it is multiplied here), ``weight_scale`` of
compressed-tensors, FBGEMM and ModelOpt. Only the scale's shape differs. See ``dequant_simple`` in llama.cpp's
conversion/base.py, and integrations/finegrained_fp8.py of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dequantize.refusal import refusal
from quantkit.checkpoint.dequantize.stored import CONFIG_HINT, Quantized, Stored, quantized
from quantkit.checkpoint.dtypes import Array, Floats, bits_of
from quantkit.checkpoint.dtypes import to_float32 as each_to_float32
from quantkit.errors import CheckpointError

_VALUES = {"F8_E4M3": "fp8 (E4M3)", "F8_E5M2": "fp8 (E5M2)"}
_SCALES = ("F32", "BF16", "F16", "F8_E8M0")
_SUFFIXES = ("_scale_inv", "_scale")
# ModelOpt's names for a scale per tensor and a scale per row.
_MODELOPT = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")

Block = tuple[int, int]


@cache
def _pair_table(dtype: np.dtype) -> npt.NDArray[np.int64]:
    """For two values of a float8 type, the first in the low byte, the bits of two float32: int64, shape [65536]."""
    values = each_to_float32(np.arange(256, dtype=np.uint8).view(dtype))
    return np.stack([np.tile(values, 256), np.repeat(values, 256)], axis=1).view(np.int64).reshape(-1)


def to_float32(values: Array) -> Floats:
    """float8 to float32, exactly, two values per look-up."""
    if values.size % 2:
        return each_to_float32(values)
    pairs = bits_of(values).reshape(-1).view(np.uint16)
    return _pair_table(values.dtype)[pairs].view(np.float32).reshape(values.shape)


def expand_scale(scale: Floats, rows: npt.NDArray[np.int64], block: Block, columns: int) -> Floats:
    """The scale of every weight of some rows.

    Args:
        scale: float32, shape [scale rows, scale columns].
        rows: int64, shape [n]: for each row of weights, its row in *scale*.
        block: rows and columns of weights that share a scale.
        columns: columns of the weight; they may cut off the last block.

    Returns:
        float32, shape [n, columns]; or [n, 1] if a row has one scale.
    """
    chosen = scale[rows]
    return chosen if scale.shape[1] == 1 else np.repeat(chosen, block[1], axis=1)[:, :columns]


@dataclass(frozen=True)
class _Weight:
    """Reads rows of one weight. For a stack of matrices, the scales are stacked too."""

    stored: Stored
    name: str
    scale: Floats
    block: Block

    def __call__(self, start: int, stop: int) -> Floats:
        height, columns = self.stored.tensors[self.name].shape[-2:]
        rows = np.arange(start, stop)
        rows = rows // height * -(-height // self.block[0]) + rows % height // self.block[0]
        values = to_float32(self.stored.read(self.name, start, stop))
        values *= expand_scale(self.scale, rows, self.block, columns)
        return values


def fp8_weights(stored: Stored) -> list[Quantized]:
    """Every weight in F8_E4M3 or F8_E5M2, with its scale.

    Raises:
        CheckpointError: the format is not float8, or a scale is missing or does not fit.
    """
    block = _block(stored)
    found = [_weight(stored, name, block) for name, spec in stored.tensors.items() if spec.dtype in _VALUES]
    known = {part for weight in found for part in weight.parts}
    for name in stored.tensors:
        for suffix in _SUFFIXES:
            owner = name.removesuffix(suffix)
            if name.endswith(suffix) and name not in known and owner in stored.tensors:
                raise stored.error(owner, f"is stored as {stored.tensors[owner].dtype}, but has a scale, {name!r}")
    return found


def plain_fp8_weights(stored: Stored) -> list[Quantized]:
    """Weights that were saved as float8 numbers without scales, in a checkpoint without quantization settings.

    llama.cpp's converter uses such numbers unchanged.

    Raises:
        CheckpointError: there is a scale, but no settings that say what it means.
    """
    found = []
    for name, spec in stored.tensors.items():
        if spec.dtype not in _VALUES:
            continue
        for scale in (name + suffix for suffix in _SUFFIXES):
            if scale in stored.tensors:
                raise stored.error(
                    name, f"has a scale, {scale!r}, but config.json has no quantization_config", CONFIG_HINT
                )
        label = f"{_VALUES[spec.dtype]} without scales"
        found.append(quantized(stored, name, spec.shape, label, (), partial(_plain_rows, stored, name)))
    return found


def _plain_rows(stored: Stored, name: str, start: int, stop: int) -> Floats:
    return to_float32(stored.read(name, start, stop))


def _weight(stored: Stored, name: str, block: Block | None) -> Quantized:
    spec = stored.tensors[name]
    if len(spec.shape) < 2 or 0 in spec.shape:
        raise stored.error(name, f"has shape {list(spec.shape)}; a weight in {spec.dtype} must be a matrix")
    scales = [name + suffix for suffix in _SUFFIXES if name + suffix in stored.tensors]
    if len(scales) > 1:
        raise stored.error(name, f"has two scales, {scales[0]!r} and {scales[1]!r}")
    scale = scales[0] if scales else name + _SUFFIXES[0 if stored.settings["quant_method"] == "fp8" else 1]
    fits = _fits(spec.shape, block)
    found = stored.companion(name, scale, _SCALES, shapes=fits)
    block = fits[found.shape]
    # One scale for a stack applies to each of its matrices.
    count = math.prod(spec.shape[:-2]) * -(-spec.shape[-2] // block[0]) * -(-spec.shape[-1] // block[1])
    repeated = np.broadcast_to(each_to_float32(stored.read(scale)).reshape(-1), count)
    values = repeated.reshape(-1, -(-spec.shape[-1] // block[1]))
    label = f"{_VALUES[spec.dtype]} with scales"
    return quantized(stored, name, spec.shape, label, (scale,), _Weight(stored, name, values, block))


def _fits(shape: tuple[int, ...], block: Block | None) -> dict[tuple[int, ...], Block]:
    """The shapes that a weight's scale may have, each with the rows and columns of weights that share a scale.

    Args:
        shape: shape of the weight, [out, in] or a stack of such matrices.
        block: the block in config.json; None for a scale per matrix or per row.
    """
    *stack, height, columns = shape
    if block is not None:
        return {(*stack, -(-height // block[0]), -(-columns // block[1])): block}
    matrix, row = (height, columns), (1, columns)
    fits = {(): matrix, (1,): matrix, (1, 1): matrix, (*stack, 1, 1): matrix, (*stack, height, 1): row}
    return fits | ({tuple(stack): matrix} if stack else {(height,): row})


def _block(stored: Stored) -> Block | None:
    """The block in config.json; None for a scale per matrix or per row.

    Raises:
        CheckpointError: the weights are not float8, or the settings have an unsupported transformation.
    """
    settings = stored.settings
    method = settings["quant_method"]
    if method == "compressed-tensors":
        return _compressed_block(stored)
    if method == "modelopt" and settings.get("quant_algo") not in _MODELOPT:
        raise _not_fp8(stored, f"modelopt, quant_algo {settings.get('quant_algo')}")
    return _as_block(stored, settings.get("weight_block_size")) if method == "fp8" else None


def _compressed_block(stored: Stored) -> Block | None:
    """The block in compressed-tensors' settings, where a group is a scheme for some of the layers."""
    settings = stored.settings
    groups = settings.get("config_groups")
    parts = groups.values() if isinstance(groups, Mapping) else ()
    schemes = [part.get("weights") if isinstance(part, Mapping) else None for part in parts]
    if settings.get("format") not in ("float-quantized", "naive-quantized") or not schemes:
        raise _not_fp8(stored, f"compressed-tensors, format {settings.get('format')}")
    blocks = set()
    for scheme in schemes:
        if not isinstance(scheme, Mapping) or scheme.get("type") != "float" or scheme.get("num_bits") != 8:
            raise _not_fp8(stored, "compressed-tensors, weights that are not float8")
        if not scheme.get("symmetric", True) or scheme.get("strategy") not in ("tensor", "channel", "block"):
            raise _not_fp8(stored, f"compressed-tensors, strategy {scheme.get('strategy')} or asymmetric")
        blocks.add(_as_block(stored, scheme.get("block_structure") if scheme["strategy"] == "block" else None))
    if settings.get("transform_config") or _is_sparse(settings.get("sparsity_config")):
        raise _not_fp8(stored, "compressed-tensors, transformed or sparse")
    if len(blocks) > 1:
        raise _not_fp8(stored, "compressed-tensors, groups with different blocks")
    return blocks.pop()


def _is_sparse(settings: Any) -> bool:
    return bool(settings) and not (isinstance(settings, Mapping) and settings.get("format", "dense") == "dense")


def _as_block(stored: Stored, value: Any) -> Block | None:
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)):
        raise CheckpointError(
            f"{stored.path / 'config.json'}: quantization_config has blocks of {value!r}, expected two numbers",
            hint=CONFIG_HINT,
        )
    return value[0], value[1]


def _not_fp8(stored: Stored, what: str) -> CheckpointError:
    return refusal(stored.path, stored.config, what)
