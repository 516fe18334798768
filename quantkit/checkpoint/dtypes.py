"""Element types of stored tensors as numpy arrays hold them.

numpy has neither bfloat16 nor 8-bit floats. Their elements are kept as structured types with one field of raw bits, so
that an array still says what it holds, can be reshaped, cut and compared, and cannot be computed with by mistake.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.ggml.types import UNQUANTIZED, GGMLType

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

BF16 = np.dtype([("bf16", "<u2")])
F8_E4M3, F8_E5M2, F8_E8M0 = (np.dtype([(name, "u1")]) for name in ("f8_e4m3", "f8_e5m2", "f8_e8m0"))

# By safetensors' name: the types of weights that are computed with as they are.
FLOATS: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BF16}
# The same by ggml's types, which safetensors names alike.
BY_TYPE: dict[GGMLType, np.dtype] = {GGMLType[name]: dtype for name, dtype in FLOATS.items()}
TYPE_OF: dict[np.dtype, GGMLType] = {dtype: kind for kind, dtype in BY_TYPE.items()}
# The names in config.json, "bfloat16", by those of --outtype and --dtype, "bf16".
CONFIG_NAMES: dict[str, str] = {
    label: label.replace("bf", "bfloat") if label[0] == "b" else label.replace("f", "float") for label in UNQUANTIZED
}
# Types that can be read besides: of quantized weights and their scales, and of indices in adapters.
READABLE: dict[str, np.dtype] = {
    **FLOATS,
    "BOOL": np.dtype("?"), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"), "F8_E4M3": F8_E4M3, "F8_E5M2": F8_E5M2, "F8_E8M0": F8_E8M0,
}  # fmt: skip


def to_float32(values: Array) -> Floats:
    """Numbers of any stored type as float32, which holds every one of them exactly but large integers.

    Args:
        values: any shape; float32 is returned as it is, without a copy.

    Returns:
        float32, the same shape; contiguous where it is a copy.
    """
    if values.dtype == np.float32:
        return values
    made = np.empty(values.shape, dtype=np.float32)
    if values.dtype == BF16:
        np.left_shift(bits_of(values), 16, out=made.view(np.uint32), dtype=np.uint32)
    elif values.dtype in _TABLES:
        np.take(_TABLES[values.dtype], bits_of(values), out=made)
    else:
        made[...] = values
    return made


def bits_of(values: Array) -> npt.NDArray[Any]:
    """The raw bits of a type that numpy does not have, as unsigned integers of its width."""
    return np.ascontiguousarray(values).reshape(values.shape).view(f"<u{values.dtype.itemsize}")


def all_finite(values: Array) -> bool:
    """Whether no value is NaN or infinite, looked at in its stored type."""
    if values.dtype == BF16:
        return not bool(((bits_of(values) & 0x7F80) == 0x7F80).any())
    if values.dtype.kind in "iub":
        return True
    return bool(np.isfinite(values if values.dtype.kind == "f" else to_float32(values)).all())


def _small_floats(exponent_bits: int, bias: int, *, finite: bool) -> Floats:
    """The value of each byte as a float with a sign bit (OCP OFP8, revision 1.0, section 5).

    Args:
        exponent_bits: bits of the exponent; the others are the mantissa's.
        bias: of the exponent.
        finite: whether only the highest code of each sign is NaN and there is no infinity (E4M3).
    """
    mantissa_bits = 7 - exponent_bits
    codes = np.arange(128)
    exponent, mantissa = codes >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    normal = (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
    values = np.where(exponent == 0, mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias), normal)
    if finite:
        values[127] = np.nan
    else:
        top = exponent == (1 << exponent_bits) - 1
        values[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    return np.concatenate([values, -values]).astype(np.float32)


_TABLES: dict[np.dtype, Floats] = {
    F8_E4M3: _small_floats(4, 7, finite=True),
    F8_E5M2: _small_floats(5, 15, finite=False),
    # A power of two without sign or mantissa; 255 is NaN.
    F8_E8M0: np.append((2.0 ** (np.arange(255.0) - 127)).astype(np.float32), np.float32(np.nan)),
}
