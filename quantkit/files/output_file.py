"""A file of known size, written at known offsets from many threads.

The space is reserved when the file is created, so a full disk is found before the work, not after it; bytes that are
not written (padding) read as zeros. The file is created in a temporary folder, which is renamed when everything is
done: a file with its final name is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from quantkit.errors import OutputError
from quantkit.files.fileio import write_at
from quantkit.system import out_of_memory

Bytes = memoryview | bytes


class Start(Enum):
    """What is there of an output file when it is opened."""

    NEW = "new"
    """Nothing: the file must not exist, and is created with its header."""
    BEGUN = "begun"
    """What an earlier run wrote: its size is set and its header written again, and what else is in it stays."""
    CREATED = "created"
    """The whole file with its header, which another process has created."""


class OutputFile:
    """An open output file; a context manager that closes it. One thread writes at a time, and the others sleep: file
    systems let one into a file at a time too, but those who wait there keep their cores busy."""

    def __init__(
        self,
        path: Path,
        header: bytes,
        nbytes: int,
        *,
        shown: Path | None = None,
        start: Start = Start.NEW,
    ) -> None:
        """Create the file, or open the one that is there.

        Args:
            path: its path.
            header: its first bytes.
            nbytes: its size.
            shown: the path to show in errors, if *path* is a temporary one.
            start: what is there of it.

        Raises:
            OutputError: it cannot be created or opened, or the disk is full.
        """
        self.path, self.nbytes = shown or path, nbytes
        self._turn = threading.Lock()
        create = os.O_CREAT | os.O_EXCL if start is Start.NEW else 0
        try:
            self._fd = os.open(path, os.O_WRONLY | create | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise write_error(self.path, error) from None
        if start is Start.CREATED:
            return
        try:
            reserve(self._fd, nbytes)
            if start is Start.BEGUN:
                os.ftruncate(self._fd, nbytes)
            self.write(0, header)
        except OSError as error:
            self.close()
            raise write_error(self.path, error) from None
        except BaseException:
            self.close()
            raise

    def write(self, offset: int, data: Bytes, *, wait: bool = True) -> bool:
        """Write all of *data* at *offset*.

        Args:
            offset: of its first byte.
            data: what to write.
            wait: for the turn, if another thread writes; else nothing is written then.

        Returns:
            Whether it is written.

        Raises:
            OutputError: the disk is full or has an error.
        """
        if not self._turn.acquire(blocking=wait):
            return False
        try:
            write_at(self._fd, memoryview(data), offset)
        except OSError as error:
            raise write_error(self.path, error) from None
        finally:
            self._turn.release()
        return True

    def flush(self) -> None:
        """Flush what is written to the disk.

        Raises:
            OSError: the disk has an error.
        """
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def reserve(fd: int, nbytes: int) -> None:
    """Set the size of the open file and, if the system can, reserve its space on the disk."""
    if hasattr(os, "posix_fallocate") and nbytes:
        try:
            os.posix_fallocate(fd, 0, nbytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(fd, nbytes)


def write_error(path: Path, error: OSError) -> OutputError:
    """The error for a failed write, with a hint for common causes."""
    space = "free some space or choose another disk with -o"
    hints = {
        errno.ENOSPC: space,
        errno.EDQUOT: space,
        errno.EFBIG: space,
        errno.ENOMEM: out_of_memory.HINT,
        errno.EACCES: "choose a folder you may write to with -o",
        errno.EPERM: "choose a folder you may write to with -o",
        errno.EROFS: "choose a folder you may write to with -o",
    }
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error})",
        hint=hints.get(error.errno or 0, "choose another folder with -o"),
    )


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first pieces of a tensor.

    Attributes:
        pieces: how many.
        nbytes: how many bytes they have together.
        hash: of them, a sha256 that can be continued.
    """

    pieces: int
    nbytes: int
    hash: hashlib._Hash


class OrderedDigest:
    """The sha256 of pieces that come from several threads.

    A piece that is early blocks until its predecessors have arrived, so nothing is stored or copied. Pieces are handed
    out in order, and the first outstanding piece never waits, so there is no deadlock.
    """

    def __init__(self, begun: Prefix | None = None) -> None:
        """Begin, or go on after the first pieces."""
        begun = begun or Prefix(0, 0, hashlib.sha256())
        self._hash, self._next = begun.hash.copy(), begun.pieces
        self._abandoned = False
        self._turn = threading.Condition()

    def update(self, index: int, data: Bytes) -> str:
        """Add piece number *index* (from 0) after all earlier pieces.

        Returns:
            The sha256 of all pieces so far; "" if they were abandoned.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._abandoned or index == self._next)
            if self._abandoned:
                return ""
        self._hash.update(data)  # outside the lock: hashing releases the GIL
        so_far = self._hash.hexdigest()
        with self._turn:
            self._next += 1
            self._turn.notify_all()
        return so_far

    def abandon(self) -> None:
        """Release all waiting threads: a piece will never arrive."""
        with self._turn:
            self._abandoned = True
            self._turn.notify_all()

    def hexdigest(self) -> str:
        """The sha256; every piece must have arrived."""
        return self._hash.hexdigest()
