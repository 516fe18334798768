"""The license of a checkpoint: the license files next to the weights."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import CheckpointError

_NAMES = ("license", "licence", "copying", "notice")


def license_texts(folder: Path) -> tuple[str, ...]:
    """Return the texts of LICENSE, COPYING and NOTICE files (LICENSE.txt and so on), in the order of their names.

    Files that are not UTF-8 are read as Latin-1.

    Raises:
        CheckpointError: one cannot be read.
    """
    files = [file for file in folder.iterdir() if file.name.lower().startswith(_NAMES) and file.is_file()]
    texts = map(_text, sorted(files, key=lambda file: file.name))
    return tuple(text for text in texts if text.strip())


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
