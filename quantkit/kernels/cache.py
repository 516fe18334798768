"""Code that is compiled for this machine, kept in the user's cache folder.

A file there is after its own hash, so that one that lost its end, or its content, in a power cut is made again. It gets
its name when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from contextlib import suppress
from pathlib import Path

from quantkit.system.running import is_running

_DIGEST_BYTES = 32
_PART = re.compile(r".*\.(\d+)-\d+\.part")


def cache_folder(name: str) -> Path:
    """The folder *name* in quantkit's part of the user's cache; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "quantkit" / name


def keep(path: Path, content: bytes) -> None:
    """Put a file into the cache; a cache that cannot be written costs a second and no more.

    What processes that were killed while they wrote have left in the folder is removed.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_kept(path: Path) -> bytes | None:
    """The content that was kept there, if it is there, whole and legible."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _remove_abandoned(folder: Path) -> None:
    for entry in folder.iterdir():
        match = _PART.fullmatch(entry.name)
        # A thread of this process may be writing one.
        if match and int(match[1]) != os.getpid() and not is_running(int(match[1])):
            entry.unlink(missing_ok=True)
