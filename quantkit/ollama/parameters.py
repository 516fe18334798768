"""Ollama's parameters, checked before a package is built rather than after it was copied to a laptop."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from quantkit.errors import ChatFormatError
from quantkit.system.did_you_mean import close_names
from quantkit.system.processors import MOST_THREADS

PARAMETERS: dict[str, str] = {
    "draft_num_predict": "int",
    "frequency_penalty": "float",
    "main_gpu": "int",
    "min_p": "float",
    "num_batch": "int",
    "num_ctx": "int",
    "num_gpu": "int",
    "num_keep": "int",
    "num_predict": "int",
    "num_thread": "int",
    "presence_penalty": "float",
    "repeat_last_n": "int",
    "repeat_penalty": "float",
    "seed": "int",
    "stop": "string",
    "temperature": "float",
    "top_k": "int",
    "top_p": "float",
    "typical_p": "float",
    "use_mmap": "bool",
}
"""Name -> type."""

# Old versions of Ollama supported these; newer ones only warn.
_IGNORED = frozenset(
    [
        *("f16_kv", "logits_all", "low_vram", "mirostat", "mirostat_eta", "mirostat_tau", "penalize_newline"),
        *("use_mlock", "vocab_only"),
    ]
)

_PATTERNS = {
    "int": re.compile(r"[+-]?[0-9]{1,18}"),
    "float": re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"),
    "bool": re.compile(r"true|false"),
    "string": re.compile(r"(?s).+"),
}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text"}
_EXAMPLES = {"int": "42", "float": "0.2", "bool": "true", "string": "END"}

# The exclusive bounds of a value, by name or else by type: llama.cpp stores 32 bits, and some values make no sense.
_FLOAT32, _INT32 = 3.4e38, 2**31
_BETWEEN = {
    "float": (-_FLOAT32, _FLOAT32),
    "num_ctx": (0, _INT32),
    "num_gpu": (-_INT32, _INT32),
    "num_thread": (-_INT32, MOST_THREADS),
    "repeat_penalty": (0, _FLOAT32),
}


def merge_parameters(own: Iterable[tuple[str, str]], given: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Merge a model's or a Modelfile's parameters with the user's, which replace those of the same name; stops add up.

    Args:
        own: pairs of name and value text.
        given: the user's pairs.
    """
    replaced = {name for name, _ in given} - {"stop"}
    return (*((name, value) for name, value in own if name not in replaced), *given)


def check_parameters(parameters: Iterable[tuple[str, str]]) -> None:
    """Refuse parameters that Ollama would refuse, ignore, or fail with.

    Args:
        parameters: pairs of name and value text.

    Raises:
        ChatFormatError: an unknown name (with the closest known ones), or a value of the wrong type or out of range.
    """
    for name, value in parameters:
        if name in _IGNORED:
            raise ChatFormatError(f"Ollama ignores the parameter {name}", hint=f"leave {name} out")
        if name not in PARAMETERS:
            close = close_names(name, PARAMETERS, most=3) or sorted(PARAMETERS)
            raise ChatFormatError(f"unknown Ollama parameter {name!r}", hint=f"did you mean: {', '.join(close)}?")
        kind = PARAMETERS[name]
        if not _PATTERNS[kind].fullmatch(value):
            raise ChatFormatError(
                f"{name} must be {_KINDS[kind]}, not {value!r}", hint=f"use a value such as {_EXAMPLES[kind]}"
            )
        between = _BETWEEN.get(name, _BETWEEN.get(kind))
        if between is not None and not between[0] < float(value) < between[1]:
            raise ChatFormatError(
                f"{name} is out of range: {value}",
                hint=f"it must be above {between[0]} and below {between[1]}",
            )
