"""The language model's settings in config.json: at its root, or in an object beside those of other parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# transformers' name for the object, and that of InternVL's own code.
_KEYS = ("text_config", "llm_config")


def language_key(config: Mapping[str, Any]) -> str | None:
    """The key of the language model's settings; None where they are at the root."""
    return next((key for key in _KEYS if isinstance(config.get(key), Mapping)), None)


def has_other_parts(config: Mapping[str, Any]) -> bool:
    """Whether there is more than a language model, such as a part that sees: the first Qwen2-VL and Qwen2.5-VL have
    the settings of that beside those at the root."""
    return language_key(config) is not None or isinstance(config.get("vision_config"), Mapping)


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own settings."""
    key = language_key(config)
    return config if key is None else config[key]
