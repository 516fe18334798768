"""The types that are worth a look, from the closest to the model to the farthest from it.

The order is that of measured KL divergence from the F16 file, on a trained model of 29 million weights and held-out
text without an importance matrix: 0.0005 (q8_0), 0.0028 (q6_k), 0.0056 (q5_k_m), 0.017 (q4_k_m), 0.024 (iq4_xs),
0.030 (q4_0), 0.055 (q3_k_m), 0.23 (q2_k). Larger models lose less with each type; llama.cpp's published measurements
have the same order. Where a package has an evaluation of its own, that counts instead.
"""

from __future__ import annotations

QUALITY = ("f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q4_0", "q3_k_m", "q2_k")
"""Best first."""
CANDIDATES = QUALITY[3:]
"""Those that a model is advised to be quantized to."""
UNQUANTIZED_IS_WASTE = "q8_0"
"""With this type a model answers as with F16, at half the size: F16 is never recommended beside it."""


def rank(label: str) -> int:
    """Place in the order of quality; a type that is not in the list comes last."""
    return QUALITY.index(label) if label in QUALITY else len(QUALITY)
