"""Kinds of arguments: what a person may write for each, and what that becomes.

A path is a ``str`` or a ``Path``, a model is a path or a hub id, a list of one needs no brackets, parameters are a
dict. Python callers and recipe files go through the same readers; what a reader does not know is refused by name.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.gguf.lora import ScaledLora
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.matrix import HubMatrix, Matrix, parse_matrix
from quantkit.hub.source import HubId, Source, parse_source
from quantkit.jobs.kind import MOST_SHOWN, Argument, Kind
from quantkit.material.data_file import CALIBRATION
from quantkit.system.units import parse_size

_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EBADF})


def _text(at: Argument, value: Any) -> str:
    if not isinstance(value, str):
        raise at.refused(value, TEXT.expected)
    return value


def _flag(at: Argument, value: Any) -> bool:
    if not isinstance(value, bool):
        raise at.refused(value, FLAG.expected)
    return value


def _count(at: Argument, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise at.refused(value, COUNT.expected)
    return value


def _number(at: Argument, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < _float(value) < math.inf:
        raise at.refused(value, NUMBER.expected)
    return float(value)


def _float(value: float) -> float:
    """A number as a float; one that is too large for that is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _size(at: Argument, value: Any) -> int:
    nbytes = _bytes(value)
    if not nbytes:
        raise at.refused(value, SIZE.expected)
    return nbytes


def _size_or_none(at: Argument, value: Any) -> int:
    nbytes = _bytes(value)
    if nbytes is None:
        raise at.refused(value, SIZE_OR_NONE.expected)
    return nbytes


def _limit(at: Argument, value: Any) -> int | None:
    nbytes = _bytes(value)
    if nbytes is None:
        raise at.refused(value, LIMIT.expected)
    return nbytes or None


def _bytes(value: Any) -> int | None:
    sound = isinstance(value, int | str) and not isinstance(value, bool)
    return parse_size(str(value)) if sound else None


def _path_text(at: Argument, value: Any, expected: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or "\0" in text:  # no path can have a zero byte
        raise at.refused(value, expected)
    return text


def _path(at: Argument, value: Any) -> Path:
    text = _path_text(at, value, PATH.expected)
    if not text:
        raise at.refused(value, PATH.expected)
    return _reachable(at, at.base / text)


def _reachable(at: Argument, path: Path) -> Path:
    """A path of which the system can say what is there, or that nothing is; Path's own questions raise else."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            raise QuantkitError(
                f"{at.where}{str(path)[:MOST_SHOWN]}: {error.strerror}",
                hint="correct the path, or the permissions of its folders",
            ) from None
    return path


def _paths(at: Argument, value: Any) -> tuple[Path, ...]:
    if isinstance(value, str | os.PathLike):
        return (_path(at, value),)
    return tuple(_path(at, item) for item in _items(at, value, PATHS.expected))


def _template(at: Argument, value: Any) -> str:
    text = _path_text(at, value, TEMPLATE.expected)
    file = at.base / text
    return str(file) if os.path.isfile(file) else text  # Path.is_file raises at a name that is too long


def _data(at: Argument, value: Any) -> Path:
    text = _path_text(at, value, DATA.expected)
    if not text:
        raise at.refused(value, DATA.expected)
    return CALIBRATION if text == "auto" else _reachable(at, at.base / text)


def _matrix(at: Argument, value: Any) -> Matrix:
    if isinstance(value, HubMatrix):
        return value
    if isinstance(value, os.PathLike):
        return _path(at, value)
    text = _path_text(at, value, MATRIX.expected)
    if not text:
        raise at.refused(value, MATRIX.expected)
    found = parse_matrix(text, at.base)
    return found if isinstance(found, HubMatrix) else _reachable(at, found)


def _source(at: Argument, value: Any) -> Source:
    if isinstance(value, HubId):
        return value
    if isinstance(value, os.PathLike):
        return _path(at, value)
    found = parse_source(_path_text(at, value, SOURCE.expected), at.base)
    return found if isinstance(found, HubId) else _reachable(at, found)


def _items(at: Argument, value: Any, expected: str) -> Sequence[Any]:
    """The items of a list; sets and iterators are refused, because the order counts."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise at.refused(value, expected)
    return value


def _texts(at: Argument, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(_text(at, item) for item in _items(at, value, TEXTS.expected))


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _adapter(at: Argument, value: Any) -> AdapterSource:
    if isinstance(value, AdapterSource):
        return value
    if isinstance(value, Mapping):
        if value.keys() != {"path", "weight"}:
            raise at.refused(value, "a path, or a path and a weight")
        value = (value["path"], value["weight"])
    if not isinstance(value, tuple):
        if not isinstance(value, str | os.PathLike | HubId):
            raise at.refused(value, "a path, or a path and a weight")
        return AdapterSource(_source(at, value))
    if len(value) != 2 or not _is_weight(value[1]):
        raise at.refused(value, "a path and a number as its weight")
    return AdapterSource(_source(at, value[0]), _float(value[1]))


def _adapters(at: Argument, value: Any) -> tuple[AdapterSource, ...]:
    weighted = isinstance(value, tuple) and len(value) == 2 and _is_weight(value[1])
    if weighted or isinstance(value, str | os.PathLike | HubId | AdapterSource | Mapping):
        return (_adapter(at, value),)
    return tuple(_adapter(at, item) for item in _items(at, value, ADAPTERS.expected))


def _lora(at: Argument, value: Any) -> ScaledLora:
    if isinstance(value, ScaledLora):
        return value
    if isinstance(value, tuple | list) and len(value) == 2 and _is_weight(value[1]):
        return ScaledLora(_path(at, value[0]), _float(value[1]))
    return ScaledLora(_path(at, value))


def _loras(at: Argument, value: Any) -> tuple[ScaledLora, ...]:
    weighted = isinstance(value, tuple) and len(value) == 2 and _is_weight(value[1])
    if weighted or isinstance(value, str | os.PathLike | ScaledLora):
        return (_lora(at, value),)
    return tuple(_lora(at, item) for item in _items(at, value, LORAS.expected))


def _parameter(at: Argument, value: Any) -> str:
    """A parameter's value as it is typed on the command line."""
    if not isinstance(value, str | int | float):
        raise at.refused(value, "a text, a number, true or false")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parameters(at: Argument, value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        pairs = [
            (name, one)
            for name, given in value.items()
            for one in (given if isinstance(given, list | tuple) else [given])
        ]
    else:
        pairs = [_pair(at, item, PARAMETERS.expected) for item in _items(at, value, PARAMETERS.expected)]
    return tuple((_text(at, name), _parameter(replace(at, name=f"{at.name}[{name!r}]"), one)) for name, one in pairs)


def _pair(at: Argument, item: Any, expected: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise at.refused(item, expected)
    return item[0], item[1]


def _message(at: Argument, item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        if item.keys() == {"role", "content"}:
            return item["role"], item["content"]
        if len(item) != 1:
            raise at.refused(item, MESSAGES.expected)
        ((role, text),) = item.items()
        return role, text
    return _pair(at, item, MESSAGES.expected)


def _messages(at: Argument, value: Any) -> tuple[tuple[str, str], ...]:
    whole = isinstance(value, Mapping) and not value.keys() & {"role", "content"}
    items = value.items() if whole else _items(at, value, MESSAGES.expected)
    return tuple((_text(at, role), _text(at, text)) for role, text in (_message(at, item) for item in items))


TEXT = Kind("text", "my-model", _text)
TEXTS = Kind("a text or a list of texts", ["q4_0", "q8_0"], _texts)
FLAG = Kind("true or false", True, _flag)
COUNT = Kind("a positive whole number", 4, _count)
NUMBER = Kind("a number above zero", 500000.0, _number)
SIZE = Kind("a size such as '2G', or a number of bytes", "2G", _size)
SIZE_OR_NONE = Kind("a size such as '2G', or 0 for none", "2G", _size_or_none)
LIMIT = Kind("a size such as '2G', or 0 for no limit", "2G", _limit)
PATH = Kind("a path", "folder/name", _path)
PATHS = Kind("a path or a list of paths", ["folder/name"], _paths)
MATRIX = Kind("a path, or a hub id such as 'org/name' or 'org/name:FILE'", "imatrix.gguf", _matrix)
DATA = Kind("a text or conversations in a file, or 'auto'", "train.jsonl", _data)
SOURCE = Kind("a folder, or a hub id such as 'org/name'", "org/name", _source)
ADAPTERS = Kind("an adapter or a list of adapters", ["my-lora"], _adapters)
LORAS = Kind("a LoRA file or a list of LoRA files", ["lora.gguf"], _loras)
TEMPLATE = Kind("the name of a chat format, or a Jinja file", "llama-3", _template)
PARAMETERS = Kind("a table of names and values", {"temperature": 0.2}, _parameters)
MESSAGES = Kind(
    "messages with a role and its text",
    [{"user": "Who are you?"}, {"assistant": "I am Kit."}],
    _messages,
)
