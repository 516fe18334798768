"""Files that only their owner may read: a conversation, a history."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.replace_file import replace_file


def write_text(path: Path, text: str) -> None:
    """Replace a file that only its owner may read.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        replace_file(path, text.encode(), private=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error})", hint="choose another folder or name"
        ) from None
