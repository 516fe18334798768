"""Checkpoints that transformers saved with bitsandbytes weights, 4-bit and 8-bit.

All other tensors are plain: norms, embeddings, the modules of ``llm_int8_skip_modules``.
"""

from __future__ import annotations

from quantkit.checkpoint.dequantize.bnb4 import STATE, weight_4bit
from quantkit.checkpoint.dequantize.bnb8 import SCALE, weight_8bit
from quantkit.checkpoint.dequantize.stored import Quantized, Stored

# Tensors that only have a meaning together with a quantized weight.
_COMPANIONS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".weight_format")


def bitsandbytes_weights(stored: Stored) -> list[Quantized]:
    """Every quantized weight.

    Raises:
        CheckpointError: naming the tensor that is missing, does not fit, or belongs to no weight.
    """
    found = [weight_4bit(stored, name) for name in stored.tensors if STATE in name]
    found += [weight_8bit(stored, name) for name in stored.tensors if name.endswith(SCALE)]
    known = {part for weight in found for part in weight.parts}
    for name, spec in stored.tensors.items():
        if name not in known and name.endswith(_COMPANIONS):
            raise stored.error(name, "belongs to no quantized weight: its quant_state or SCB is missing")
        if name not in known and spec.dtype in ("U8", "I8"):
            raise stored.error(name, f"is stored as {spec.dtype}, but its quant_state or SCB is missing")
    return found
