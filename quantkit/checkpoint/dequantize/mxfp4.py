"""MXFP4 as gpt-oss has it: blocks of 32 numbers of 4 bits (E2M1) with a power of two each (OCP MX, revision 1.0).

A matrix of an expert is stored as [out, in / 32, 16] bytes, ``_blocks``, with [out, in / 32] exponents, ``_scales``.
transformers has the matrices transposed, and so has whoever reads them here; ggml has the blocks as they are stored,
but for the order of their numbers: ggml's byte has those that are 16 apart, a stored one has neighbors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dequantize.stored import Quantized, Stored, StoredBlocks, quantized
from quantkit.checkpoint.dtypes import Floats
from quantkit.ggml.types import GGMLType

BLOCKS, SCALES = "_blocks", "_scales"
_FORMAT = "MXFP4"
_WEIGHTS, _BYTES = 32, 16
_BIAS, _NAN = 127, 255
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], dtype=np.float32)

Bytes = npt.NDArray[np.uint8]


def codes(blocks: Bytes) -> Bytes:
    """The 4-bit numbers of blocks, in order: uint8 [..., 16] to [..., 32]."""
    return np.stack((blocks & 0x0F, blocks >> 4), axis=-1).reshape(*blocks.shape[:-1], _WEIGHTS)


def dequantize(blocks: Bytes, scales: Bytes) -> Floats:
    """The values, float32: blocks [..., n, 16] and scales [..., n] to [..., 32 * n]. Every one is exact."""
    values = np.ldexp(_VALUES[codes(blocks)], scales.astype(np.int32)[..., None] - _BIAS)
    return values.reshape(*scales.shape[:-1], -1)


def ggml_rows(blocks: Bytes, scales: Bytes) -> Bytes:
    """Rows of ggml's MXFP4: uint8 [n, blocks, 16] and [n, blocks] to [n, 17 * blocks]."""
    numbers = codes(blocks)
    packed = numbers[..., :_BYTES] | numbers[..., _BYTES:] << 4
    return np.concatenate((scales[..., None], packed), axis=-1).reshape(len(scales), -1)


def mxfp4_weights(stored: Stored) -> list[Quantized]:
    """The weights of a checkpoint that are stored in blocks.

    Raises:
        CheckpointError: naming what is missing or does not fit.
    """
    return [_weight(stored, name) for name in stored.tensors if name.endswith(BLOCKS)]


def _weight(stored: Stored, name: str) -> Quantized:
    spec, weight = stored.tensors[name], name.removesuffix(BLOCKS)
    if spec.dtype != "U8" or len(spec.shape) != 4 or spec.shape[3] != _BYTES:
        raise stored.error(name, f"has shape {list(spec.shape)} {spec.dtype}; blocks of MXFP4 are [.., .., .., 16] U8")
    if weight in stored.tensors:
        raise stored.error(name, f"is also stored as {weight!r}")
    scales = weight + SCALES
    stored.companion(name, scales, ["U8"], shapes=[spec.shape[:3]])
    experts, rows, blocks, _ = spec.shape

    def parts(start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Rows ``start:stop`` of all matrices in order."""
        found: Bytes = stored.read(name, start * blocks, stop * blocks).reshape(stop - start, blocks, _BYTES)
        powers: Bytes = stored.read(scales, start, stop)
        if (powers == _NAN).any():
            raise stored.error(scales, "has a scale that is not a number", hint="download the file again")
        return found, powers

    def transposed(start: int, stop: int) -> Floats:
        columns, pieces = blocks * _WEIGHTS, []
        for expert in range(start // columns, -(-stop // columns)):
            first, last = (min(max(row - expert * columns, 0), columns) for row in (start, stop))
            wanted = slice(first // _WEIGHTS, -(-last // _WEIGHTS))
            found, powers = parts(expert * rows, (expert + 1) * rows)
            values, skipped = dequantize(found[:, wanted], powers[:, wanted]).T, first - wanted.start * _WEIGHTS
            pieces.append(values[skipped : skipped + last - first])
        return np.ascontiguousarray(np.concatenate(pieces))

    shape = (experts, blocks * _WEIGHTS, rows)
    packed = StoredBlocks(GGMLType.MXFP4, (experts, rows, shape[1]), lambda a, b: ggml_rows(*parts(a, b)))
    return quantized(stored, name, shape, _FORMAT, [scales], transposed, weight=weight, blocks=packed)
