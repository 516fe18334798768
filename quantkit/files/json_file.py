"""Reads JSON files, which may be missing, broken or hostile, and writes readable ones."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError, QuantkitError

SCHEMA = 1
"""The number of docs/json.md, which every JSON output has: additions keep it, changes raise it."""

# A tokenizer.json with a quarter of a million tokens has 35 MB.
_LARGEST = 512 << 20


def read_json(path: Path, *, strict: bool = False, largest: int = _LARGEST) -> dict[str, Any]:
    """A JSON object from *path*.

    Args:
        path: the file.
        strict: also refuse keys that appear twice in an object, of which readers take different ones, and NaN and
            Infinity, which are not JSON. It takes longer.
        largest: its bytes at most.

    Raises:
        CheckpointError: the file cannot be read, is too large, is not JSON in UTF-8, or is not an object.
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _unique, "parse_constant": _no_constant} if strict else {}
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > largest:
            raise CheckpointError(f"{path}: expected a regular file of at most {largest >> 20} MiB")
        value = json.loads(path.read_bytes().decode(), **hooks)  # read_text takes three times as long
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing", hint="download the folder again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})", hint="download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def read_given_json(path: Path, what: str, *, largest: int, hint: str, if_missing: str = "") -> Any:
    """Any JSON value from a file that somebody named.

    Args:
        path: the file.
        what: what it is to be, such as "a conversation".
        largest: its bytes at most.
        hint: what to do about an error.
        if_missing: what to do if there is no such file, where that is something else.

    Raises:
        QuantkitError: no such file, it cannot be read, is too large, or is not JSON in UTF-8; a byte order mark, with
            which Windows' editors begin, is none of the text.
    """
    try:
        if not path.is_file():
            raise QuantkitError(f"{path}: no such file", hint=if_missing or hint)
        if path.stat().st_size > largest:
            raise QuantkitError(f"{path}: too large for {what}", hint=hint)
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant)
    except OSError as error:
        raise QuantkitError(f"{path}: cannot be read ({error.strerror or error})", hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise QuantkitError(f"{path}: not valid JSON ({error})", hint=hint) from None


def write_json(path: Path, value: object, *, indent: int = 2) -> None:
    """Write readable JSON, as :func:`json_bytes` has it.

    Args:
        path: the file.
        value: what to write.
        indent: blanks per level; transformers writes 2.

    Raises:
        OSError: it cannot be written.
    """
    path.write_bytes(json_bytes(value, indent=indent))


def json_bytes(value: object, *, indent: int = 2) -> bytes:
    """Readable JSON in UTF-8, with a line feed at its end. Halves of characters stay the escapes that they were."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    return text.encode("utf-8", errors="backslashreplace")
