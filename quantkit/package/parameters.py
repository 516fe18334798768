"""The parameters that Ollama knows, checked before a package is built rather than after it was copied to a laptop."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from quantkit.errors import ChatFormatError

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
"""Name -> type. What old versions took and Ollama now ignores (mirostat, low_vram, ...) is not among them."""

_PATTERNS = {
    "int": re.compile(r"[+-]?[0-9]{1,18}"),
    "float": re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"),
    "bool": re.compile(r"true|false"),
    "string": re.compile(r"(?s).+"),
}
_EXAMPLES = {"int": "42", "float": "0.2", "bool": "true or false", "string": "a text"}


def check_parameters(parameters: Iterable[tuple[str, str]]) -> None:
    """Refuse what Ollama would refuse, or ignore.

    Args:
        parameters: pairs of name and value text.

    Raises:
        ChatFormatError: an unknown name, with the closest known ones, or a value of the wrong type.
    """
    for name, value in parameters:
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name.lower(), PARAMETERS, n=3) or sorted(PARAMETERS)
            raise ChatFormatError(f"unknown Ollama parameter {name!r}", hint=f"did you mean: {', '.join(close)}?")
        kind = PARAMETERS[name]
        if not _PATTERNS[kind].fullmatch(value):
            raise ChatFormatError(
                f"Ollama parameter {name}: {value!r} is not of type {kind}", hint=f"write it as {_EXAMPLES[kind]}"
            )
