"""Files that only their owner may read: a conversation, a history."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.signs_of_life import SILENT, silence
from quantkit.system.host import host_token
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
        prefix = f".{path.name}.quantkit-{os.getpid()}.{host_token()}-"
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
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
    pattern = re.compile(rf"\.{re.escape(path.name)}\.quantkit-(\d+)(?:\.([0-9a-f]{{16}}))?-.+")
    for entry in os.scandir(path.parent):
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        if match[2] not in (None, host_token()):  # a home that machines share
            abandoned = silence(Path(entry.path)) > SILENT
        else:
            abandoned = int(match[1]) != os.getpid() and not is_running(int(match[1]))
        if abandoned:
            with suppress(OSError):
                os.unlink(entry.path)


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error})", hint="choose another folder or name")
