"""Two names that change places in one step: whoever looks, or is killed, finds the one or the other, never neither."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
# What is said by a kernel or a file system (NFS, many of FUSE) that cannot.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def exchange(path: Path, other: Path) -> bool:
    """Let two names, each a file or a folder, change places.

    Returns:
        Whether it is done; False where the system or the file system cannot.

    Raises:
        OSError: one of them is not there, or the disk has an error.
    """
    call = _call()
    if call is None:
        return False
    ctypes.set_errno(0)
    if call(os.fsencode(path), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(path), None, str(other))


@cache
def _call() -> Callable[[bytes, bytes], int] | None:
    """The C library's function, None if it has none."""
    if sys.platform not in ("linux", "darwin"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        swap = getattr(library, "renamex_np", None)
        return None if swap is None else lambda path, other: int(swap(path, other, ctypes.c_uint(_EXCHANGE)))
    rename = getattr(library, "renameat2", None)
    if rename is None:
        return None
    return lambda path, other: int(rename(_AT_FDCWD, path, _AT_FDCWD, other, ctypes.c_uint(_EXCHANGE)))
