"""Reads and writes at an offset of an open file, from any thread, on every system; and reads a file in blocks."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

_BLOCK_BYTES = 1 << 22

# Systems without positioned reads and writes have one file position for all threads.
_position = threading.Lock()


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill *view* from *offset*; return the number of bytes read, which is smaller only at the end of the file."""
    done = 0
    while done < len(view):
        got = _read_some(fd, view[done:], offset + done)
        if got == 0:
            break
        done += got
    return done


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all of *view* at *offset*.

    Raises:
        OSError: the disk is full or has an error.
    """
    done = 0
    while done < len(view):
        wrote = _write_some(fd, view[done:], offset + done)
        if wrote == 0:  # no system should, and asking forever would hang
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += wrote


def blocks(path: Path, start: int = 0, size: int = sys.maxsize) -> Iterator[bytes]:
    """*size* bytes of a file from *start*, in blocks; fewer only if the file ends earlier.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        while size and (block := file.read(min(size, _BLOCK_BYTES))):
            yield block
            size -= len(block)


def sha256_of(pieces: Iterable[bytes]) -> str:
    """The sha256 of all pieces in order, such as those of :func:`blocks`; hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file to the disk or, if the system can, a folder."""
    if path.is_dir() and os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_some(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    if hasattr(os, "pread"):
        data = os.pread(fd, len(view), offset)
    else:
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


def _write_some(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, view, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)
