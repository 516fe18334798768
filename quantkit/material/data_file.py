"""A data file: a text in UTF-8, or conversations as JSON lines or as one JSON list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.material.talks import SHAPES, Talk, TalkError, read_talk

_TEXTS = Path(__file__).parent / "texts"
CALIBRATION: Path = _TEXTS / "quantkit-calibration.txt"
"""Our own text in English and Chinese for importance matrices: prose, dialogue, code, tables, numbers."""
EVALUATION: Path = _TEXTS / "quantkit-evaluation.txt"
"""Another text of the same kinds; it shares no sentence with :data:`CALIBRATION`."""

# Names of files with conversations; every other file is a text.
_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Data:
    """What a data file holds.

    Attributes:
        name: the file's name.
        sha256: of its bytes, in hexadecimal.
        text: the text without the line break at its end, as llama.cpp's programs read it; "" for conversations.
        talks: the conversations with where each is in the file (``line 3``); empty for a text.
    """

    name: str
    sha256: str
    text: str
    talks: tuple[tuple[str, Talk], ...] = ()


def read_data(path: Path) -> Data:
    """Read a data file.

    Raises:
        QuantkitError: it cannot be read, is not UTF-8, is empty, or has an entry that is not a conversation.
    """
    raw, text = read_text(path)
    digest = hashlib.sha256(raw).hexdigest()
    if path.suffix.lower() in _JSON:
        return Data(path.name, digest, "", tuple(_talks(path, text.removeprefix("\ufeff"))))
    return Data(path.name, digest, text.removesuffix("\n"))


def read_text(path: Path) -> tuple[bytes, str]:
    """Read a file as a text, whatever its name is: its bytes, and what they say.

    Raises:
        QuantkitError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise QuantkitError(
            f"{path}: cannot be read ({error.strerror or error})", hint="give a text file, or JSON lines"
        ) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise QuantkitError(
            f"{path}: line {line}: not a text in UTF-8 (byte {error.start} is {raw[error.start]:#04x})",
            hint="save it as UTF-8",
        ) from None
    if not text.strip():
        raise QuantkitError(f"{path}: the file is empty", hint="give a text of some pages, or conversations")
    return raw, text


def _talks(path: Path, text: str) -> Iterator[tuple[str, Talk]]:
    entries = _listed(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    for where, entry in entries:
        try:
            yield where, read_talk(entry)
        except TalkError as error:
            raise _refused(path, where, str(error)) from None


def _listed(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The entries of one JSON list, by number."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"line {getattr(error, 'lineno', 1)}", f"not JSON ({error})") from None
    if not entries:
        raise _refused(path, "line 1", "the list is empty")
    for number, entry in enumerate(entries, 1):
        yield f"entry {number}", entry


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() also splits at characters that JSON may contain
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _refused(path, f"line {number}", f"not JSON ({error})") from None


def _refused(path: Path, where: str, what: str) -> QuantkitError:
    return QuantkitError(
        f"{path}: {where}: {what}", hint=f"write conversations as {SHAPES}; a plain text has another suffix, as .txt"
    )
