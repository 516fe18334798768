"""A small file that is replaced as a whole: written under a temporary name, then renamed.

A name contains the process id and the system that it is of, as the temporary folders of :mod:`quantkit.files.leftovers`
do, so that the next process to write removes what one that was killed has left.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from quantkit.files.signs_of_life import SILENT, silence
from quantkit.system.host import host_token
from quantkit.system.running import is_running


def replace_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file in the place of an earlier one; at no time is a part of it under its name.

    What processes that were killed while they wrote it have left is removed.

    Args:
        path: the file. A link stays a link, and what it points to is replaced.
        content: all of it.
        private: let only its owner read it.

    Raises:
        OSError: it cannot be written; an earlier file is as it was.
    """
    path = Path(os.path.realpath(path))  # resolve() raises RuntimeError at a loop of links
    remove_abandoned(path.parent, path.name)
    own = f"{os.getpid()}.{host_token()}-{secrets.token_hex(4)}"  # another thread may write it too
    temporary = path.with_name(f".{path.name}.quantkit-{own}")
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, create, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the disk has become read-only
            os.unlink(temporary)
        raise


def remove_abandoned(folder: Path, name: str = "") -> None:
    """Remove what killed processes have left of the file *name* in a folder; of any file, if it is empty.

    Raises:
        OSError: the folder cannot be read.
    """
    pattern = re.compile(rf"\.{re.escape(name) or '.+'}\.quantkit-(\d+)(?:\.([0-9a-f]{{16}}))?-.+")
    for entry in os.scandir(folder):
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        if match[2] not in (None, host_token()):  # a folder that machines share
            abandoned = silence(Path(entry.path)) > SILENT
        else:
            abandoned = int(match[1]) != os.getpid() and not is_running(int(match[1]))
        if abandoned:
            with suppress(OSError):
                os.unlink(entry.path)
