"""bitsandbytes' 8-bit weights (LLM.int8()): int8 values, and a scale per row, ``.SCB``.

A weight is its value times the scale / 127. LLM.int8() treats outliers specially in activations, not in weights.
Dettmers et al. 2022, arXiv:2208.07339; bitsandbytes/_ops.py, ``int8_vectorwise_dequant``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantkit.checkpoint.dequantize.stored import Quantized, Stored, quantized
from quantkit.checkpoint.dtypes import Floats

SCALE = ".SCB"
# bitsandbytes multiplies by this instead of dividing by 127: the bits differ.
_STEP = np.float32(7.874015718698502e-3)


def dequantize_rows(codes: npt.NDArray[np.int8], scale: Floats) -> Floats:
    """Dequantize rows.

    Args:
        codes: int8, shape [n, in].
        scale: float32, shape [n]: the largest magnitude of each row.

    Returns:
        float32, shape [n, in].
    """
    rows = codes * scale[:, None]  # float32
    rows *= _STEP
    return rows


def weight_8bit(stored: Stored, scale: str) -> Quantized:
    """The weight whose scales are tensor *scale*.

    Raises:
        CheckpointError: naming what is missing or does not fit.
    """
    module = scale.removesuffix(SCALE)
    name, layout = f"{module}.weight", f"{module}.weight_format"
    spec = stored.tensors.get(name)
    if spec is None:
        raise stored.error(scale, f"is present, but {name!r} is missing")
    if spec.dtype != "I8" or len(spec.shape) != 2:
        raise stored.error(name, f"has shape {list(spec.shape)} {spec.dtype}; with {scale!r} it must be a matrix of I8")
    stored.companion(name, scale, ["F32"], shapes=[spec.shape[:1]])
    parts = [scale]
    if layout in stored.tensors:
        stored.companion(name, layout, ["U8"], shapes=[()])
        if stored.read(layout).item() != 0:
            raise stored.error(
                name,
                "is stored in the tile layout of an old GPU (weight_format)",
                hint="load and save the model with a current bitsandbytes, which writes plain rows",
            )
        parts.append(layout)

    def rows(start: int, stop: int) -> Floats:
        return dequantize_rows(stored.read(name, start, stop), stored.read(scale, start, stop))

    return quantized(stored, name, spec.shape, "bitsandbytes int8", parts, rows)
