"""generation_config.json's sampling settings as GGUF metadata, which llama.cpp takes as its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.gguf_header import KV, f32, i32

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


def sampling_metadata(generation_config: Mapping[str, Any]) -> list[KV]:
    """The settings that are there and are numbers."""
    return [
        make(f"general.sampling.{key}", value)  # type: ignore[arg-type]
        for name, (key, make) in _SETTINGS.items()
        if isinstance(value := generation_config.get(name), (int, float)) and not isinstance(value, bool)
    ]
