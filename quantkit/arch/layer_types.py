"""The kind of each layer, in families that mix several."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from quantkit.arch.base import Config, layers
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array

FULL, WINDOW = "full_attention", "sliding_attention"


def layer_types(
    config: Config, kinds: Collection[str], default: Sequence[str] | None = None, key: str = "layer_types"
) -> tuple[str, ...]:
    """One kind for each layer, as the config lists them.

    Args:
        config: config.json.
        kinds: that llama.cpp's graph for the family has.
        default: what a config without the list means.
        key: of the list.

    Raises:
        ArchitectureError: there is no list, it is not as long as the model, or a kind is unknown.
    """
    given, count = config.get(key), layers(config)
    if given is None and default is not None:
        given = list(default)
    if not isinstance(given, list) or len(given) != count:
        size = f"{len(given)} entries" if isinstance(given, list) else repr(given)
        raise ArchitectureError(
            f"config.json: {key} is {size}; expected a list with an entry for each of {count} layers"
        )
    if unknown := [kind for kind in given if kind not in kinds]:
        raise ArchitectureError(
            f"config.json: {key} {str(unknown[0])[:60]!r} is not supported for this model: llama.cpp supports "
            f"{', '.join(sorted(kinds))}"
        )
    return tuple(given)


def by_layer(entries: Sequence[KV], key: str, values: Sequence[int]) -> list[KV]:
    """The entries, with a number for each layer in the place of one for all.

    Args:
        entries: metadata, with *key*.
        key: the entry's whole key.
        values: by layer.
    """
    return [array(key, list(values), KVType.INT32) if entry.key == key else entry for entry in entries]
