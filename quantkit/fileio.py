"""Reading and writing at an offset of an open file, from any thread, on every system Python runs on."""

from __future__ import annotations

import os
import threading

# Systems without positioned calls have one file position for all threads.
_position = threading.Lock()


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill *view* from *offset* on; the number of bytes read, which is less only at the end of the file."""
    done = 0
    while done < len(view):
        got = _read_some(fd, view[done:], offset + done)
        if got == 0:
            break
        done += got
    return done


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all of *view* at *offset*."""
    done = 0
    while done < len(view):
        done += _write_some(fd, view[done:], offset + done)


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
