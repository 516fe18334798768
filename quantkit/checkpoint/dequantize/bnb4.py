"""bitsandbytes' 4-bit weights (NF4 and FP4), also with double quantization.

The tensor with the weight's own name has two weights per byte, the first in the high half, flattened over the rows.
Next to it are ``.absmax`` (one per block), ``.quant_map`` (the 16 values), ``.quant_state.bitsandbytes__nf4`` (JSON as
bytes), and with double quantization ``.nested_absmax`` and ``.nested_quant_map``; ``.absmax`` is then stored as bytes.

Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3; bitsandbytes/functional.py, ``dequantize_4bit``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dequantize.stored import Quantized, Stored, quantized
from quantkit.checkpoint.dtypes import FLOATS, Floats, to_float32

# The values of the 16 codes. bitsandbytes uses these whatever the file says, so the file must have the same.
CODEBOOKS = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "fp4": tuple(
        sign * value / 12 for sign in (1, -1) for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
    ),
}  # fmt: skip
STATE = ".quant_state.bitsandbytes__"
_BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def pair_table(codebook: Floats) -> npt.NDArray[np.int64]:
    """For each byte the two weights it holds.

    Args:
        codebook: float32, shape [16].

    Returns:
        int64, shape [256]: the bits of two float32 values, so that one lookup returns both.
    """
    return np.stack([np.repeat(codebook, 16), np.tile(codebook, 16)], axis=1).view(np.int64).reshape(256)


def look_up(packed: npt.NDArray[np.uint8], table: npt.NDArray[np.int64]) -> Floats:
    """The codebook's values of packed codes.

    Args:
        packed: uint8, shape [n].
        table: the result of :func:`pair_table`.

    Returns:
        float32, shape [2 n].
    """
    return table[packed].view(np.float32)


def scale_blocks(values: Floats, absmax: Floats, blocksize: int) -> Floats:
    """Multiply each block by its scale, in place.

    Args:
        values: float32, shape [n].
        absmax: float32, shape [ceil(n / blocksize)]; the last block may be short.
        blocksize: weights in a block.
    """
    full = len(values) // blocksize
    whole = values[: full * blocksize].reshape(full, blocksize)
    whole *= absmax[:full, None]
    values[full * blocksize :] *= absmax[full:]
    return values


@dataclass(frozen=True)
class Nested:
    """Scales that are quantized too: ``codebook[code] * absmax[block] + offset``.

    Attributes:
        absmax: float32, shape [ceil(number of scales / blocksize)].
        codebook: float32, shape [256].
        blocksize: scales in a block.
        offset: the mean that was subtracted from the scales.
    """

    absmax: Floats
    codebook: Floats
    blocksize: int
    offset: float

    def expand(self, codes: npt.NDArray[np.uint8], first: int) -> Floats:
        """The scales from number *first* on.

        Args:
            codes: uint8, shape [n].
            first: index of the first scale.

        Returns:
            float32, shape [n].
        """
        blocks = np.arange(first, first + len(codes)) // self.blocksize
        return self.codebook[codes] * self.absmax[blocks] + np.float32(self.offset)


@dataclass(frozen=True)
class _Weight:
    """Reads rows of one weight, by ranges of its blocks."""

    stored: Stored
    name: str
    columns: int
    count: int
    blocksize: int
    table: npt.NDArray[np.int64]
    nested: Nested | None

    def __call__(self, start: int, stop: int) -> Floats:
        """A row may begin and end within a block: whole blocks are dequantized, and the rows cut out of them."""
        first, last = start * self.columns // self.blocksize, -(-stop * self.columns // self.blocksize)
        low, high = first * self.blocksize, min(last * self.blocksize, self.count)
        values = look_up(self._packed(low, high), self.table)[: high - low]
        scale_blocks(values, self._absmax(first, last), self.blocksize)
        return values[start * self.columns - low : stop * self.columns - low].reshape(stop - start, self.columns)

    def _packed(self, low: int, high: int) -> npt.NDArray[np.uint8]:
        """The bytes of weights low:high; *low* is the start of a block."""
        # With bnb_4bit_quant_storage the bytes may be stored as elements of a wider type.
        spec = self.stored.tensors[self.name]
        item = 2 * spec.nbytes // spec.shape[0]
        return self.stored.read(self.name, low // item, -(-high // item)).reshape(-1).view(np.uint8)

    def _absmax(self, first: int, last: int) -> Floats:
        stored = self.stored.read(f"{self.name}.absmax", first, last)
        return to_float32(stored) if self.nested is None else self.nested.expand(stored.view(np.uint8), first)


def weight_4bit(stored: Stored, state: str) -> Quantized:
    """The weight whose quantization state is tensor *state*.

    Raises:
        CheckpointError: naming what is missing or does not fit.
    """
    name, _, kind = state.partition(STATE)
    if name not in stored.tensors:
        raise stored.error(state, f"is present, but {name!r} is missing")
    if kind not in CODEBOOKS:
        raise stored.error(name, f"is quantized as {kind}; supported are {' and '.join(CODEBOOKS)}")
    settings = _settings(stored, state)
    shape, blocksize = settings.get("shape"), settings.get("blocksize")
    if settings.get("quant_type") != kind or blocksize not in _BLOCKSIZES or not _is_shape(shape):
        raise stored.error(
            state,
            f"has invalid settings: quant_type {settings.get('quant_type')!r}, blocksize {blocksize!r}, "
            f"shape {shape!r}",
        )
    assert isinstance(shape, list)
    count, spec = math.prod(shape), stored.tensors[name]
    if spec.nbytes != -(-count // 2) or spec.shape[1:] != (1,):
        raise stored.error(
            name, f"has shape {list(spec.shape)} {spec.dtype}, but {kind} of {shape} needs {-(-count // 2)} bytes"
        )
    blocks = -(-count // blocksize)
    parts, nested = [state, f"{name}.absmax", f"{name}.quant_map"], None
    is_nested = "nested_offset" in settings
    stored.companion(name, parts[1], ["U8"] if is_nested else FLOATS, shapes=[(blocks,)])
    stored.companion(name, parts[2], ["F32"], shapes=[(16,)])
    codebook = to_float32(stored.read(parts[2]))
    if not np.allclose(codebook, np.array(CODEBOOKS[kind]), rtol=0.0, atol=1e-6):
        raise stored.error(parts[2], f"is not the codebook of {kind}")
    if is_nested:
        nested = _nested(stored, name, state, settings, blocks)
        parts += [f"{name}.nested_absmax", f"{name}.nested_quant_map"]
    weight = _Weight(stored, name, shape[-1], count, blocksize, pair_table(codebook), nested)
    label = f"bitsandbytes {kind}{', double quantization' if nested else ''}"
    return quantized(stored, name, tuple(shape), label, parts, weight)


def _nested(stored: Stored, name: str, state: str, settings: Mapping[str, Any], blocks: int) -> Nested:
    blocksize, offset = settings.get("nested_blocksize"), settings["nested_offset"]
    if not (isinstance(blocksize, int) and blocksize > 0 and isinstance(offset, float) and math.isfinite(offset)):
        raise stored.error(state, f"has invalid settings: nested_blocksize {blocksize!r}, nested_offset {offset!r}")
    absmax, codebook = f"{name}.nested_absmax", f"{name}.nested_quant_map"
    stored.companion(name, absmax, ["F32"], shapes=[(-(-blocks // blocksize),)])
    stored.companion(name, codebook, ["F32"], shapes=[(256,)])
    return Nested(to_float32(stored.read(absmax)), to_float32(stored.read(codebook)), blocksize, offset)


def _settings(stored: Stored, state: str) -> Mapping[str, Any]:
    spec = stored.tensors[state]
    try:
        value = json.loads(stored.read(state).tobytes()) if spec.dtype == "U8" else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise stored.error(state, "is not a JSON object")
    return value


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and len(value) >= 2 and all(isinstance(n, int) and n > 0 for n in value)
