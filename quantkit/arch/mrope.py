"""Multimodal rotary embeddings (M-RoPE, Wang et al. 2024, arXiv:2409.12191): pairs of a head that are rotated by the
time, the height or the width of a patch.

In a text all three are the token's place, so the embedding is the plain one, and a family writes the entries of
:mod:`quantkit.arch.rope` for it, and which pairs belong to which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.arch.base import Config, number, positive
from quantkit.arch.rope import rope, rope_base
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array

_OWN = ("mrope_section", "mrope_interleaved")
# Of a pair that llama.cpp does not rotate, the angle at the end of the context that is too small to matter.
_NO_MATTER = 0.25


def plain_rope(config: Config, part: float = 1.0) -> Config:
    """The config with the rotary settings of a text.

    Args:
        config: config.json.
        part: of a head that is rotated, if the config does not say.
    """
    settings = {"partial_rotary_factor": part} | {k: value for k, value in rope(config).items() if k not in _OWN}
    if settings.get("rope_type") == "mrope":  # what the first of these models call plain frequencies
        settings["rope_type"] = "default"
    return {**config, "rope_scaling": None, "rope_parameters": settings}


def sections(arch: str, config: Config, size: int, *, interleaved: bool, default: tuple[int, ...] = ()) -> list[KV]:
    """Which pairs of a head belong to time, height and width.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        size: dimensions of a head that are rotated.
        interleaved: the three take turns, as in ``apply_interleaved_mrope`` of transformers.
        default: what transformers takes if the config has none.

    Raises:
        ArchitectureError: the sections are no three numbers that make up all pairs, or llama.cpp would leave pairs
            of a text unrotated that matter.
    """
    settings = rope(config)
    found = settings.get("mrope_section") or list(default)
    sound = isinstance(found, list) and len(found) == 3
    if not sound or not all(type(n) is int and n > 0 for n in found) or sum(found) != size // 2:
        raise ArchitectureError(
            f"config.json: mrope_section is {str(found)[:80]}; expected three numbers that make {size // 2}, half "
            f"of the {size} dimensions that are rotated"
        )
    if interleaved:
        _check_lost(config, settings, found, size)
    return [array(f"{arch}.rope.dimension_sections", [*found, 0], KVType.INT32)]


def _check_lost(config: Config, settings: Mapping[str, Any], found: list[int], size: int) -> None:
    """Refuse interleaved sections of which llama.cpp does not rotate a pair that matters.

    transformers rotates pairs beyond the turns of a section by the time; llama.cpp by a fourth number, which is 0 in a
    text. In Qwen3-VL ([24, 20, 20]) these are two of the slowest: less than a ninth of a radian at 262,144 tokens.
    """
    context, base = _reach(config, settings), rope_base(settings)
    for pair in range(size // 2):
        angle = context * base ** (-2 * pair / size)
        if pair >= 3 * found[pair % 3] and angle > _NO_MATTER:
            raise ArchitectureError(
                f"config.json: mrope_section {found} is not supported: llama.cpp does not rotate pair {pair} of a head "
                f"in a text, which transformers rotates by up to {angle:.2g} radians"
            )


def _reach(config: Config, settings: Mapping[str, Any]) -> float:
    """The context's length for the slowest pairs, which YaRN interpolates as linear scaling does all."""
    context = positive(config, "max_position_embeddings")
    if settings.get("rope_type") not in ("linear", "yarn"):
        return context
    factor = number(settings, "factor", "config.json: rope_scaling", above=0)
    return max(context / factor, settings.get("original_max_position_embeddings") or 0)
