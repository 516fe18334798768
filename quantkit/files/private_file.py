"""Files that only their owner may read: a conversation, a history."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from quantkit.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write a file that only its owner may read: first under a temporary name, then renamed.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link; resolve() raises RuntimeError at a loop of them
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".quantkit-")
    except OSError as error:
        raise _not_written(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(name, path)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        Path(name).unlink(missing_ok=True)


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error})", hint="choose another folder or name")
