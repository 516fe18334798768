"""Which metadata of a GGUF file may be changed without its tensors, and the types of entries that it lacks.

A file's sizes, vocabulary and encoding belong to its weights: with another value llama.cpp refuses the file, or
computes something else in silence. What only describes the model, or is a choice that a user may make, is open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from quantkit.gguf.key_types import STRING, TOKEN_ID, Type, known_type

TEMPLATE, NAME, PRE = "tokenizer.chat_template", "general.name", "tokenizer.ggml.pre"

# The first pattern that matches the whole key decides.
_FIXED = (
    (r"general\.architecture|general\.type", "it says what llama.cpp computes with the tensors"),
    (r"general\.alignment", "the tensors lie at multiples of it"),
    (
        r"general\.(quantization_version|file_type)",
        "it says how the tensors are encoded, which quantkit quantize changes",
    ),
    (r"split\..*", "it says which files belong together"),
    (r"adapter\.type|clip\..*|imatrix\..*", "it says what the tensors are"),
)
_VOCABULARY = "it is a part of the vocabulary, whose tokens are the rows of the embedding"
_GRAPH = "llama.cpp computes the model with it, and the weights were trained with its value"

_OPEN_VOCABULARY = re.compile(
    rf"tokenizer\.chat_template(\..+)?|{TOKEN_ID.pattern}|tokenizer\.ggml\.add_(bos|eos|sep)_token|{re.escape(PRE)}"
)
# Of the architecture's keys: how long the context is, and how positions are stretched to that length.
_OPEN_GRAPH = re.compile(r"context_length|rope\.freq_base(_swa)?|rope\.scaling\..+")
# Without these llama.cpp refuses the file, or takes a default that is seldom the model's.
_NEEDED = re.compile(
    r"tokenizer\.ggml\.(bos|eos)_token_id|tokenizer\.ggml\.pre|.+\.context_length|adapter\.lora\.alpha"
)

# What llama.cpp takes: the others it would replace by a default, or divide by.
_ABOVE_ZERO = re.compile(r".+\.(context_length|freq_base|freq_base_swa|factor|original_context_length)")
_WORDS: Mapping[str, tuple[str, ...]] = {"rope.scaling.type": ("none", "linear", "yarn", "longrope")}


def fixed(key: str, architecture: str) -> str:
    """Why an entry may not be changed; empty if it may.

    Args:
        key: its key.
        architecture: the file's, whose name its keys begin with.
    """
    for pattern, why in _FIXED:
        if re.fullmatch(pattern, key):
            return why
    if key.startswith("tokenizer."):
        return "" if _OPEN_VOCABULARY.fullmatch(key) else _VOCABULARY
    if key.startswith(f"{architecture}."):
        return "" if _OPEN_GRAPH.fullmatch(key.removeprefix(f"{architecture}.")) else _GRAPH
    return ""


def needed(key: str) -> bool:
    """Whether an entry may be changed, but not removed."""
    return _NEEDED.fullmatch(key) is not None


def type_of_new(key: str) -> Type:
    """The type of an entry that the file does not have: what llama.cpp reads, and text where it reads nothing."""
    return known_type(key) or STRING


def wanted(key: str, value: object) -> str:
    """What llama.cpp takes for an entry, in words, if that excludes the value; else empty."""
    if key == "adapter.lora.alpha":
        return "" if value else "a number other than 0, for which llama.cpp would use a scale of 1"
    if _ABOVE_ZERO.fullmatch(key) and isinstance(value, int | float) and value <= 0:
        return "a number above 0"
    words = _WORDS.get(key.partition(".")[2])
    return "" if words is None or value in words else f"one of {', '.join(words)}"
