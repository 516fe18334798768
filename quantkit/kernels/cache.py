"""Code that is compiled for this machine, kept in the user's cache folder.

A file there is after its own hash, so that one that lost its end, or its content, in a power cut is made again. It gets
its name when it is complete.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from quantkit.files.replace_file import remove_abandoned, replace_file

_DIGEST_BYTES = 32


def cache_folder(name: str) -> Path:
    """The folder *name* in quantkit's part of the user's cache; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "quantkit" / name


def keep(path: Path, content: bytes) -> None:
    """Put a file into the cache; a cache that cannot be written costs a second and no more.

    What processes that were killed while they wrote have left in the folder is removed.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        replace_file(path, hashlib.sha256(content).digest() + content)


def read_kept(path: Path) -> bytes | None:
    """The content that was kept there, if it is there, whole and legible."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None
