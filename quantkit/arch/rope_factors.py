"""The divisors of rotary frequencies that are tensors in GGUF: those of Llama 3.1's scaling and of LongRoPE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.base import Config, Generated, head_dim, number
from quantkit.arch.rope import SCALING, rope, rope_base
from quantkit.errors import ArchitectureError


def longrope_factors(settings: Mapping[str, Any], size: int) -> list[Generated]:
    """The divisors of the frequencies, for contexts longer than the trained one and within it.

    Args:
        settings: the result of :func:`quantkit.arch.rope.rope`.
        size: dimensions of a head that are rotated; the tensors have half as many.
    """
    found = []
    for key, target in (("long_factor", "rope_factors_long"), ("short_factor", "rope_factors_short")):
        factors = settings.get(key)
        if not isinstance(factors, list) or len(factors) != size // 2:
            count = f"{len(factors)} numbers" if isinstance(factors, list) else repr(factors)
            raise ArchitectureError(f"{SCALING}: {key} is {count}; expected a list of {size // 2} numbers")
        values = [number({key: factor}, key, SCALING, above=0) for factor in factors]
        found.append(Generated(f"{target}.weight", np.array(values, dtype=np.float32)))
    return found


def rope_tensors(config: Config) -> list[Generated]:
    """The tensors that Llama 3.1's scaling and LongRoPE become."""
    settings = rope(config)
    if settings.get("rope_type") == "longrope":
        return longrope_factors(settings, head_dim(config))
    return [_llama3_factors(settings, head_dim(config))] if settings.get("rope_type") == "llama3" else []


# Rotary bases and sizes of heads of the released models.
_PLAIN_POWERS = ((500000.0, 64), (500000.0, 128))


def _frequencies(base: float, size: int) -> npt.NDArray[np.float32]:
    """The rotary frequencies in float32, as torch computes them for llama.cpp's converter, shape [size / 2].

    Torch's power is not always correctly rounded. For the released models it is, and a test compares the two; for any
    other base or size torch is asked.
    """
    if (base, size) not in _PLAIN_POWERS:
        import torch

        powers = base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
        return (1.0 / powers).numpy()
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.float32(1) / np.power(base, exponents.astype(np.float64)).astype(np.float32)


def _llama3_factors(settings: Mapping[str, Any], size: int) -> Generated:
    """``rope_freqs.weight`` for Llama 3.1's rope scaling: the divisor of each frequency, shape [size / 2].

    The formula is that of ``_compute_llama3_parameters`` in transformers, as a divisor of the plain frequencies.
    """
    base = rope_base(settings)
    factor, low, high, context = (
        number(settings, key, SCALING, above=0)
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if low > high:
        raise ArchitectureError(f"{SCALING}: low_freq_factor {low:g} is above high_freq_factor {high:g}")
    frequencies = _frequencies(base, size)
    factors: list[np.float32 | float] = []
    one = np.float32(1)
    for frequency in frequencies:
        # In float32, and a number is divided as torch does it, by way of the reciprocal: so llama.cpp's converter does.
        wavelength = one / frequency * np.float32(2 * math.pi)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low or low == high:  # Llama 4 has nothing between the two
            factors.append(factor)
        else:
            smooth = (one / wavelength * np.float32(context) - np.float32(low)) / np.float32(high - low)
            factors.append(one / ((one - smooth) / np.float32(factor) + smooth))
    return Generated("rope_freqs.weight", np.array(factors, dtype=np.float32))
