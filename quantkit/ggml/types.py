"""ggml's tensor types and llama.cpp's file types (ftypes), by name.

The numbers are those of ``ggml.h`` and ``llama.h``; sizes and names come from libggml itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import IntEnum

from quantkit.errors import QuantizationError
from quantkit.ggml import library as ggml
from quantkit.system.did_you_mean import choose_hint


class GGMLType(IntEnum):
    """A ggml tensor type: how a row of numbers is stored, in blocks."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def block(self) -> int:
        """Number of weights in a block."""
        return ggml.block_size(self.value)

    @property
    def block_nbytes(self) -> int:
        """Bytes of a block."""
        return ggml.block_nbytes(self.value)

    def row_nbytes(self, columns: int) -> int:
        """Bytes of a row of *columns* weights, which must be a multiple of the block."""
        return columns // self.block * self.block_nbytes

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of *shape* (outermost first)."""
        return math.prod(shape[:-1]) * self.row_nbytes(shape[-1] if shape else 1)

    @property
    def label(self) -> str:
        """The name that llama.cpp prints and users type: ``q4_K``."""
        return ggml.type_name(self.value)


# Types for sums inside libggml and for plain numbers: no weight is encoded in these (ggml_quantize_chunk).
_NOT_ENCODABLE = {
    GGMLType.Q8_1, GGMLType.Q8_K, GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64, GGMLType.F64,
}  # fmt: skip
# The types in which libggml can encode weights.
ENCODABLE: tuple[GGMLType, ...] = tuple(kind for kind in GGMLType if kind not in _NOT_ENCODABLE)

# The outtypes: unquantized types in which a GGUF can be written, and from which it can be quantized.
UNQUANTIZED: dict[str, GGMLType] = {"f16": GGMLType.F16, "bf16": GGMLType.BF16, "f32": GGMLType.F32}

# Types that libggml does not encode without importances (ggml_quantize_requires_imatrix).
NEEDS_IMPORTANCE = frozenset({GGMLType.IQ2_XXS, GGMLType.IQ2_XS, GGMLType.IQ1_S})

# llama.cpp's ftypes: the number in general.file_type, by the name in llama-quantize, in lower case.
FTYPES: dict[str, int] = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20,
    "q2_k_s": 21, "iq3_xs": 22, "iq3_xxs": 23, "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26, "iq3_m": 27, "iq2_s": 28,
    "iq2_m": 29, "iq4_xs": 30, "iq1_m": 31, "bf16": 32, "tq1_0": 36, "tq2_0": 37, "mxfp4_moe": 38,
    "q1_0": 40, "q2_0": 41,
}  # fmt: skip
# llama-quantize's short forms.
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
# What other programs call a type. These are only suggested: whoever says int4 may not want any of llama.cpp's types.
_ELSEWHERE = {
    "fp32": "f32", "float32": "f32", "float": "f32", "fp16": "f16", "float16": "f16", "half": "f16",
    "bfloat16": "bf16", "int8": "q8_0", "8bit": "q8_0", "q8": "q8_0", "q6": "q6_k", "q5": "q5_k_m",
    "int4": "q4_k_m", "4bit": "q4_k_m", "nf4": "q4_k_m", "q4": "q4_k_m", "q3": "q3_k_m", "q2": "q2_k",
    "mxfp4": "mxfp4_moe", "not_quantized": "f16", "fast_quantized": "q8_0", "quantized": "q4_k_m",
}  # fmt: skip


def ftype_name(name: str) -> str:
    """The canonical name of a quantization type that a user typed (``Q4_K`` is ``q4_k_m``).

    Raises:
        QuantizationError: there is no such type.
    """
    lower = name.lower().replace("-", "_")
    canonical = ALIASES.get(lower, lower)
    if canonical == "nvfp4":
        raise QuantizationError(
            "nvfp4: llama.cpp's quantizer cannot write this type", hint="choose mxfp4_moe, iq4_nl or q4_k_m"
        )
    if canonical not in FTYPES:
        raise QuantizationError(f"unknown quantization type {name!r}", hint=_meant(lower))
    return canonical


def _meant(name: str) -> str:
    """The hint for a name that is no type."""
    words = [word for word in re.split(r"[,;+/\s]+", name) if word]
    if len(words) > 1 and all(ALIASES.get(word, word) in FTYPES for word in words):
        return "one type at a time: " + " ".join(f"--quant {word}" for word in words)
    if name in _ELSEWHERE:
        return f"did you mean {_ELSEWHERE[name]}?"
    return choose_hint(name, FTYPES)
