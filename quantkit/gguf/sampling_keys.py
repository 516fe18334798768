"""Sampling settings in a GGUF file's metadata, and their names in Ollama."""

from __future__ import annotations

SAMPLING_PREFIX = "general.sampling."

PARAMETERS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
"""End of the GGUF key -> Ollama parameter. Ollama has none for XTC, and ignores Mirostat."""
