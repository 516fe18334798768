"""Files that only their owner may read: a conversation, a history."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.system.running import is_running


def write_text(path: Path, text: str) -> None:
    """Write a file that only its owner may read: first under a temporary name, then renamed.

    What processes that were killed while they wrote have left of it is removed.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link; resolve() raises RuntimeError at a loop of them
    try:
        _remove_abandoned(path)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.quantkit-{os.getpid()}-")
    except OSError as error:
        raise _not_written(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(name, path)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        with suppress(OSError):  # the disk has become read-only
            Path(name).unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.quantkit-(\d+)-.+")
    for entry in os.scandir(path.parent):
        match = pattern.fullmatch(entry.name)
        if match is not None and int(match[1]) != os.getpid() and not is_running(int(match[1])):
            with suppress(OSError):
                os.unlink(entry.path)


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error})", hint="choose another folder or name")
