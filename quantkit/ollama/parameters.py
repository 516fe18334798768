"""The parameters that Ollama knows, checked before a package is built rather than after it was copied to a laptop."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from quantkit.errors import ChatFormatError
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

# What old versions of Ollama took, and newer ones only warn of.
_IGNORED = frozenset(
    [
        *("f16_kv", "logits_all", "low_vram", "mirostat", "mirostat_eta", "mirostat_tau", "penalize_newline"),
        *("use_mlock", "vocab_only"),
    ]
)

_PATTERNS = {
    "int": re.compile(r"[+-]?[0-9]{1,18}"),
    "float": re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"),
    "bool": re.compile(r"true|false"),
    "string": re.compile(r"(?s).+"),
}
_EXAMPLES = {"int": "42", "float": "0.2", "bool": "true or false", "string": "a text"}

# What a value must lie between, by name or else by type: llama.cpp has 32 bits for it, and no use for the others.
_FLOAT32, _INT32 = 3.4e38, 2**31
_BETWEEN = {
    "float": (-_FLOAT32, _FLOAT32),
    "num_ctx": (0, _INT32),
    "num_gpu": (-_INT32, _INT32),
    "num_thread": (-_INT32, MOST_THREADS),
    "repeat_penalty": (0, _FLOAT32),
}


def merge_parameters(own: Iterable[tuple[str, str]], given: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Parameters of a model or a Modelfile with those of the user, which replace others of their name; stops add up.

    Args:
        own: pairs of name and value text.
        given: the same, by the user.
    """
    replaced = {name for name, _ in given} - {"stop"}
    return (*((name, value) for name, value in own if name not in replaced), *given)


def check_parameters(parameters: Iterable[tuple[str, str]]) -> None:
    """Refuse what Ollama would refuse, or ignore, or fail with.

    Args:
        parameters: pairs of name and value text.

    Raises:
        ChatFormatError: an unknown name, with the closest known ones, a value of the wrong type, or one that no program
            could work with.
    """
    for name, value in parameters:
        if name in _IGNORED:
            raise ChatFormatError(f"Ollama ignores the parameter {name}", hint=f"leave {name} out")
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name.lower(), PARAMETERS, n=3) or sorted(PARAMETERS)
            raise ChatFormatError(f"unknown Ollama parameter {name!r}", hint=f"did you mean: {', '.join(close)}?")
        kind = PARAMETERS[name]
        if not _PATTERNS[kind].fullmatch(value):
            raise ChatFormatError(
                f"Ollama parameter {name}: {value!r} is not of type {kind}", hint=f"write it as {_EXAMPLES[kind]}"
            )
        between = _BETWEEN.get(name, _BETWEEN.get(kind))
        if between is not None and not between[0] < float(value) < between[1]:
            raise ChatFormatError(
                f"Ollama parameter {name} is {value}, which is out of range",
                hint=f"it must be above {between[0]} and below {between[1]}",
            )
