"""A file of a repository, and whether a file here has its content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantkit.files.fileio import blocks

_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes, and its sha256 (64 digits) or the git hash of its blob (40)."""

    name: str
    nbytes: int
    digest: str

    @property
    def has_digest(self) -> bool:
        """Whether the hub says what its content is."""
        return _DIGEST.fullmatch(self.digest) is not None


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the content that the hub lists."""
    if len(file.digest) == 64:
        found = hashlib.sha256()
    else:
        found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    for block in blocks(path):
        found.update(block)
    return found.hexdigest() == file.digest


class FileProgress:
    """Progress of one file in bytes, which is told of what is there, several times and from several sides: the highest
    counts."""

    def __init__(self, nbytes: int, advance: Callable[[int], None]) -> None:
        self._nbytes, self._advance, self._reached = nbytes, advance, 0

    def reach(self, amount: int) -> None:
        """Report that at least *amount* bytes are done."""
        new = min(amount, self._nbytes) - self._reached
        if new > 0:
            self._reached += new
            self._advance(new)
