"""Changes the beginning of a file where it lies."""

from __future__ import annotations

import os
from pathlib import Path

from quantkit.files.fileio import write_at
from quantkit.files.output_file import write_error

_BLOCK = 512  # bytes; a sector


def may_change(path: Path) -> bool:
    """Whether a file is under no other name: what another name shows must not change with it."""
    return not path.is_symlink() and path.stat().st_nlink == 1


def change_beginning(path: Path, old: bytes, new: bytes) -> None:
    """Write what differs between two beginnings of the same length, in one piece, and flush it to the disk.

    Args:
        path: the file.
        old: what it begins with.
        new: what it is to begin with.

    Raises:
        OutputError: it cannot be written.
    """
    assert len(old) == len(new), (len(old), len(new))
    if old == new:
        return
    different = [at for at in range(0, len(new), _BLOCK) if old[at : at + _BLOCK] != new[at : at + _BLOCK]]
    first, last = different[0], different[-1] + _BLOCK
    try:
        fd = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        try:
            write_at(fd, memoryview(new)[first:last], first)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise write_error(path, error) from None
