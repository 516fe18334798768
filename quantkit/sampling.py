"""generation_config.json's sampling settings as GGUF metadata, which llama.cpp takes as its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import CheckpointError, GGUFError
from quantkit.gguf.header import KV, f32, i32

# GGUF key and type of each setting, in the order of llama.cpp's converter
_SETTINGS = {
    "top_k": ("top_k", i32),
    "top_p": ("top_p", f32),
    "min_p": ("min_p", f32),
    "xtc_probability": ("xtc_probability", f32),
    "xtc_threshold": ("xtc_threshold", f32),
    "temperature": ("temp", f32),
    "penalty_last_n": ("penalty_last_n", i32),
    "penalty_repeat": ("penalty_repeat", f32),
    "mirostat": ("mirostat", i32),
    "mirostat_tau": ("mirostat_tau", f32),
    "mirostat_eta": ("mirostat_eta", f32),
}


def sampling_metadata(generation_config: Mapping[str, Any], where: str = "generation_config.json") -> list[KV]:
    """The settings that are there and are numbers.

    Args:
        generation_config: the parsed file.
        where: its path, for messages.

    Raises:
        CheckpointError: a number that the GGUF file has no room for.
    """
    entries = []
    for name, (key, make) in _SETTINGS.items():
        value = generation_config.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                entries.append(make(f"general.sampling.{key}", value))
            except GGUFError as error:
                raise CheckpointError(f"{where}: {name} is {value}", hint=str(error)) from None
    return entries
