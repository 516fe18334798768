"""Sampling settings from generation_config.json: as GGUF metadata, which llama.cpp uses as its defaults, and from
there as Ollama parameters.

Nothing is invented: a setting that the file does not have is not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import CheckpointError, GGUFError
from quantkit.gguf.kv import KV, KVType, f32, i32
from quantkit.gguf.sampling_keys import PARAMETERS, SAMPLING_PREFIX, SAMPLING_TYPES

# By GGUF key, the names in the file, of which the first is used, where they differ from the key.
_NAMES = {"temp": ("temperature",), "penalty_repeat": ("penalty_repeat", "repetition_penalty")}
_MAKERS = {KVType.INT32: i32, KVType.FLOAT32: f32}


def sampling_metadata(generation_config: Mapping[str, Any], where: str = "generation_config.json") -> list[KV]:
    """Metadata for the settings that are present and are numbers.

    Args:
        generation_config: the parsed file.
        where: its path, for messages.

    Raises:
        CheckpointError: a number is out of range for the GGUF type.
    """
    if generation_config.get("do_sample") is False:  # transformers then takes the most likely token
        generation_config = {**generation_config, "temperature": 0.0}
    entries = []
    for key, kind in SAMPLING_TYPES.items():
        for name in _NAMES.get(key, (key,)):
            value = generation_config.get(name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                continue
            try:
                entries.append(_MAKERS[kind](f"{SAMPLING_PREFIX}{key}", value))
            except GGUFError as error:
                raise CheckpointError(f"{where}: {name} is {value}", hint=str(error)) from None
            break
    return entries


def checkpoint_sampling(checkpoint: Checkpoint) -> list[KV]:
    """:func:`sampling_metadata` of a checkpoint's generation_config.json."""
    name = "generation_config.json"
    return sampling_metadata(checkpoint.json(name), str(checkpoint.path / name))


def sampling_parameters(metadata: Iterable[KV]) -> tuple[tuple[str, str], ...]:
    """The sampling settings in a GGUF file's metadata as Ollama parameters: pairs of name and value as text."""
    found = {entry.key: entry for entry in metadata if entry.key.startswith(SAMPLING_PREFIX)}
    return tuple(
        (parameter, _text(entry))
        for key, parameter in PARAMETERS.items()
        if (entry := found.get(f"{SAMPLING_PREFIX}{key}")) is not None
    )


def _text(entry: KV) -> str:
    """The shortest text that reads back as the number in the file."""
    if entry.type is KVType.FLOAT32:
        import numpy as np

        return str(np.float32(entry.value)).removesuffix(".0")
    return str(entry.value)
