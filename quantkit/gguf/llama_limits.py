"""What llama.cpp ends its process for, instead of refusing the file: its assertions on metadata, found by fuzzing.

``scripts/fuzz --differential`` compares: whatever quantkit takes, llama.cpp loads or refuses in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.gguf.kv import KV

MAX_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""
MAX_EXPERTS = 1024
"""llama.cpp's LLAMAMAX_EXPERTS."""
_BYTE = 6  # llama.cpp's type of a token
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
# Without experts these end the process; other families refuse the file.
_NEEDS_EXPERTS = ("bailingmoe2", "glm4moe", "grovemoe", "lfm2moe", "llada-moe", "smallthinker")


def crash(metadata: Mapping[str, KV]) -> str:
    """Why llama.cpp would end its process when it loads a file; empty if nothing is known.

    Args:
        metadata: the file's; entries that llama.cpp reads have its types (:mod:`quantkit.gguf.key_types`).
    """
    values = {key: entry.value for key, entry in metadata.items()}
    architecture = str(values.get("general.architecture"))
    return (
        _layers(values, architecture)
        or _experts(values, architecture)
        or _rope(values, architecture)
        or _bytes(values)
        or repeated_token(values.get("tokenizer.ggml.tokens", ()))
    )


def repeated_token(tokens: Sequence[str]) -> str:
    """A token that is in a vocabulary twice, in words; empty for none. A null character ends a token for llama.cpp."""
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens):
        text = token.partition("\0")[0] or f"[EMPTY_{number}]"  # as llama.cpp calls it
        if (first := seen.setdefault(text, number)) != number:
            return f"tokens {first} and {number} are both {token!r}, and llama.cpp needs them to differ"
    return ""


def _bytes(values: Mapping[str, Any]) -> str:
    if values.get("tokenizer.ggml.model") != "bert" or _BYTE not in values.get("tokenizer.ggml.token_type", ()):
        return ""
    return "the vocabulary is one of whole words (bert), but has tokens of single bytes"


def _layers(values: Mapping[str, Any], architecture: str) -> str:
    for key, value in values.items():
        if key.endswith(".block_count") and not 1 <= _whole(value, 1) <= MAX_LAYERS:
            return f"{key} is {value}; llama.cpp supports 1 to {MAX_LAYERS} layers"
    key = f"{architecture}.nextn_predict_layers"
    layers = _whole(values.get(f"{architecture}.block_count"), MAX_LAYERS)
    if _whole(values.get(key), 0) > layers:
        return f"{key} is {values[key]}, but there are only {layers} layers"
    return ""


def _experts(values: Mapping[str, Any], architecture: str) -> str:
    def number(key: str) -> int:
        value = values.get(f"{architecture}.{key}")
        return _whole(max(value, default=0) if isinstance(value, list) else value, 0)

    experts, used = number("expert_count"), number("expert_used_count")
    groups, groups_used = number("expert_group_count"), number("expert_group_used_count")
    if experts > MAX_EXPERTS:
        return f"{architecture}.expert_count is {experts}; llama.cpp supports up to {MAX_EXPERTS} experts"
    needed = bool(experts) or architecture in _NEEDS_EXPERTS
    if not (1 if needed else 0) <= used <= experts:
        return f"{architecture}.expert_used_count is {used} of {experts} experts"
    if groups and not (groups < experts and (groups == 1 or (experts % groups == 0 and 0 < groups_used < groups))):
        return f"{architecture}.expert_group_count is {groups}, of which {groups_used} are used, for {experts} experts"
    return ""


def _rope(values: Mapping[str, Any], architecture: str) -> str:
    key = f"{architecture}.rope.scaling.type"
    if values.get(key, "none") in _ROPE_SCALING:
        return ""
    return f"{key} is {values[key]!r}; llama.cpp has {', '.join(_ROPE_SCALING)}"


def _whole(value: object, default: int) -> int:
    """A whole number; the default for what is none, which llama.cpp does not read."""
    return int(value) if isinstance(value, int) else default
