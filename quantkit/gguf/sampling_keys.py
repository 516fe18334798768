"""Sampling settings in a GGUF file's metadata: their types, and their names in Ollama."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.gguf.kv import KVType

SAMPLING_PREFIX = "general.sampling."

SAMPLING_TYPES: Mapping[str, KVType] = {
    "top_k": KVType.INT32,
    "top_p": KVType.FLOAT32,
    "min_p": KVType.FLOAT32,
    "xtc_probability": KVType.FLOAT32,
    "xtc_threshold": KVType.FLOAT32,
    "temp": KVType.FLOAT32,
    "penalty_last_n": KVType.INT32,
    "penalty_repeat": KVType.FLOAT32,
    "mirostat": KVType.INT32,
    "mirostat_tau": KVType.FLOAT32,
    "mirostat_eta": KVType.FLOAT32,
}
"""By the end of the GGUF key, in the order of llama.cpp's converter."""

PARAMETERS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
"""End of the GGUF key -> Ollama parameter. Ollama has none for XTC, and ignores Mirostat."""
