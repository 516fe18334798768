"""How many bytes the keys and values of a context take, layer by layer, from a model's metadata alone.

llama.cpp's rules (``llama_kv_cache``, ``llama_kv_cache_iswa``): a cell a token, in multiples of 256; a layer stores the
keys and the values of all its heads for each cell. A layer with a sliding window needs only the cells of the window and
of the tokens that are computed at once, unless the program asks for all (``swa_full``), as ``quantkit chat`` does,
because it goes back to an earlier turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.advise.states import BESIDE_ATTENTION, state_nbytes, stateful
from quantkit.errors import GGUFError
from quantkit.ggml.types import GGMLType

_CELLS = 256
# Of so many layers the last one sees everything, by architecture. llama.cpp has windows only where its graph does: it
# writes none for Mistral and Qwen, and ignores that of Phi-3.
WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "olmo2": 4, "cohere2": 4, "gpt-oss": 2, "llama4": 4}
# Built into its graph.
WINDOWS = {"llama4": 8192}


@dataclass(frozen=True)
class CacheLayer:
    """What a layer stores for a token.

    Attributes:
        keys, values: numbers for a token, of all heads.
        window: tokens that it sees; None for all.
        state: bytes that it keeps whatever the context is, see :mod:`quantkit.advise.states`.
    """

    keys: int
    values: int
    window: int | None = None
    state: int = 0


@dataclass(frozen=True)
class CacheTypes:
    """The types of keys and values, as ``--cache-type-k`` and ``--cache-type-v`` of llama.cpp's programs set them."""

    keys: GGMLType = GGMLType.F16
    values: GGMLType = GGMLType.F16


F16_CACHE = CacheTypes()
"""llama.cpp's default."""


def cache_layers(metadata: Mapping[str, Any]) -> tuple[CacheLayer, ...]:
    """What each layer stores.

    Args:
        metadata: values of a GGUF file by key.

    Raises:
        GGUFError: a number is missing.
    """
    arch = str(metadata.get("general.architecture"))
    # A layer that only predicts one more token is not run.
    count = _number(metadata, f"{arch}.block_count") - int(metadata.get(f"{arch}.nextn_predict_layers", 0))
    width = _number(metadata, f"{arch}.embedding_length")
    heads = _per_layer(metadata, f"{arch}.attention.head_count", count, None)
    pairs = _per_layer(metadata, f"{arch}.attention.head_count_kv", count, heads)
    states, state = stateful(metadata, arch, pairs), state_nbytes(metadata, arch)
    window = metadata.get(f"{arch}.attention.sliding_window", WINDOWS.get(arch))
    narrow = _narrow(metadata, arch, count) if window else [False] * count
    latent = f"{arch}.attention.key_length_mla" in metadata  # values are made of the keys
    layers = []
    # The last layers of Gemma 3n and 4 use the keys and values of earlier ones.
    own = count - int(metadata.get(f"{arch}.attention.shared_kv_layers", 0))
    for layer in range(count):
        usual = width // heads[layer] if heads[layer] else 0
        keys, values = (
            pairs[layer] * _head(metadata, f"{arch}.attention.{kind}_length", usual, narrow=narrow[layer])
            for kind in ("key", "value")
        )
        seen = int(window) if narrow[layer] and window else None
        values = 0 if latent else values
        if states[layer]:
            keys, values = (keys, values) if arch in BESIDE_ATTENTION else (0, 0)
            layers.append(CacheLayer(keys, values, state=state))
            continue
        layers.append(CacheLayer(keys, values, seen) if layer < own else CacheLayer(0, 0, seen))
    return tuple(layers)


def _head(metadata: Mapping[str, Any], key: str, usual: int, *, narrow: bool) -> int:
    """Numbers of one head; layers with a window may have a size of their own."""
    size = metadata.get(f"{key}_swa") if narrow else None
    return int(metadata.get(key, usual) if size is None else size)


def layer_nbytes(layer: CacheLayer, context: int, types: CacheTypes, *, batch: int, full: bool = False) -> int:
    """Bytes of a layer's cache.

    Args:
        layer: what it stores.
        context: tokens of context.
        types: of keys and values.
        batch: tokens that are computed at once (``--ubatch-size``).
        full: whether layers with a window keep all tokens.
    """
    cells = _pad(context)
    if layer.window is not None and not full:
        cells = min(cells, _pad(layer.window + batch))
    return cells * (types.keys.row_nbytes(layer.keys) + types.values.row_nbytes(layer.values)) + layer.state


def _narrow(metadata: Mapping[str, Any], arch: str, layers: int) -> list[bool]:
    """Whether each layer has the window: the file lists it, or the architecture's period says it."""
    listed, period = metadata.get(f"{arch}.attention.sliding_window_pattern"), WINDOW_PERIODS.get(arch, 0)
    if isinstance(listed, list) and len(listed) >= layers:
        return [bool(one) for one in listed[:layers]]
    return [bool(period) and layer % period < period - 1 for layer in range(layers)]


def _pad(cells: int) -> int:
    return -(-cells // _CELLS) * _CELLS


def _number(metadata: Mapping[str, Any], key: str) -> int:
    value = metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise GGUFError(
            f"{key} is {value!r}; expected a number", hint="see what the file says: quantkit inspect FILE.gguf"
        )
    return value


def _per_layer(metadata: Mapping[str, Any], key: str, layers: int, default: list[int] | None) -> list[int]:
    """A number for each layer: a file has one for all of them, or a list."""
    value = metadata.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, list) and len(value) >= layers and all(isinstance(one, int) for one in value):
        return value[:layers]
    return [_number(metadata, key)] * layers
