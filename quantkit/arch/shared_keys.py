"""Models whose last layers have no keys and values of their own (Gemma 3n and 4)."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.arch.base import Config, positive
from quantkit.arch.layer_types import FULL, WINDOW
from quantkit.errors import ArchitectureError


def first_shared(config: Config, kinds: Sequence[str]) -> int:
    """The number of the first layer that has no keys and values of its own; it and all later ones use earlier ones.

    transformers takes those of the last layer of the same kind, llama.cpp those of the last two layers before: the last
    for the whole context, the one before it for a window.

    Raises:
        ArchitectureError: these are not the same layers.
    """
    shared = config.get("num_kv_shared_layers") or 0
    if not shared:
        return len(kinds)
    first = len(kinds) - positive(config, "num_kv_shared_layers")
    if first < 2 or list(kinds[first - 2 : first]) != [WINDOW, FULL]:
        raise ArchitectureError(
            f"config.json: num_kv_shared_layers {shared} is not supported for this model: llama.cpp takes the keys and "
            f"values of these layers from the two layers before, which must be {WINDOW} and {FULL}"
        )
    return first
