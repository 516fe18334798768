"""The tools that a model may call in a chat, from a JSON file as OpenAI's API has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.files.json_file import read_given_json

Tools = tuple[Mapping[str, Any], ...]

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LARGEST = 4 * 2**20  # bytes; more than any context holds
_HINT = 'write it as [{"type": "function", "function": {"name": "...", "parameters": {"type": "object", ...}}}, ...]'


def read_tools(path: Path) -> Tools:
    """Read a list of tools.

    Raises:
        QuantkitError: no such file, or it is no such list.
    """
    found = read_given_json(
        path, "a list of tools", largest=_LARGEST, hint=_HINT, if_missing="give a JSON file with a list of tools"
    )
    if not isinstance(found, list) or not found:
        raise QuantkitError(f"{path}: must be a list of tools", hint=_HINT)
    for number, tool in enumerate(found, 1):
        _check(tool, f"{path}: tool {number}")
    names = [tool["function"]["name"] for tool in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise QuantkitError(f"{path}: has {twice!r} twice", hint="give each tool its own name")
    return tuple(found)


def _check(tool: object, where: str) -> None:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise QuantkitError(f'{where} must have "type": "function" and a "function"', hint=_HINT)
    name, parameters = function.get("name"), function.get("parameters", {})
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise QuantkitError(f"{where} has no name of letters, digits and _.:-", hint=_HINT)
    if not isinstance(parameters, dict):
        raise QuantkitError(f"{where}: the parameters of {name} must be a JSON schema", hint=_HINT)
