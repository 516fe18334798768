"""Folders for temporary files that nobody sees: removed at the end, or, after a kill, by the next run that needs one.

A name has the id of its process, and the process holds a lock on the folder: in a container that shares the place with
others, the id alone would not say whether it is in use. Processes that a killed one had started, and that still write
in its folder, are ended first: they would make their files again.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.system.folder_lock import lock_folder
from quantkit.system.running import is_running
from quantkit.system.writers import end_writers

_NAME = re.compile(r"quantkit-(\d+)-.+")
_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_making = threading.Lock()
# Seconds between two looks, and after which a folder that its process has not locked is not just being made.
_LOOK, _MADE = 0.05, 60.0


def temporary_root() -> Path:
    """The folder for temporary files, as tempfile chooses it.

    tempfile itself writes a file to try each folder, which a kill at the wrong moment leaves there for good.
    """
    if tempfile.tempdir is None:
        for name in _VARIABLES:
            found = os.environ.get(name)
            if found and os.path.isdir(found) and os.access(found, os.W_OK | os.X_OK):
                return Path(os.path.abspath(found))
    return Path(tempfile.gettempdir())


@contextmanager
def temporary_folder(within: Path | None = None) -> Iterator[Path]:
    """A folder of this process alone; it and all that is in it are removed at the end.

    Args:
        within: the folder around it; None for :func:`temporary_root`.

    Raises:
        OutputError: it cannot be made.
    """
    root = within
    with _making:
        try:
            root = within or temporary_root()
            _remove_abandoned(root)
            folder = Path(tempfile.mkdtemp(prefix=f"quantkit-{os.getpid()}-", dir=root))
            lock = lock_folder(folder)
        except OSError as error:
            raise OutputError(
                f"{root or 'the folder for temporary files'}: cannot be written ({error.strerror or error})",
                hint="set TMPDIR to a folder on a disk with free space",
            ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_for(folder: Path, seconds: float = 10.0) -> None:
    """Remove the folder of another process that is just ending, for whoever outlives it.

    Args:
        folder: what :func:`temporary_folder` gave that process.
        seconds: how long it waits for the lock on the folder; if another process has it then, that removes the folder.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            lock = lock_folder(folder)
        except BlockingIOError:
            time.sleep(_LOOK)
        except OSError:  # another process has removed it
            return
        else:
            _clear(folder, lock)
            return


def _remove_abandoned(root: Path) -> None:
    """Remove what processes left that were killed; nothing that is another user's."""
    with suppress(OSError):
        for entry in os.scandir(root):
            match = _NAME.fullmatch(entry.name)
            if match is not None:
                with suppress(OSError):  # it is in use, or another process removes it
                    _remove(entry, int(match[1]))


def _remove(entry: os.DirEntry[str], pid: int) -> None:
    found, running = entry.stat(follow_symlinks=False), is_running(pid)
    if not entry.is_dir(follow_symlinks=False) or found.st_uid != getattr(os, "getuid", int)():
        return
    if running and time.time() - found.st_ctime < _MADE:
        return
    lock = lock_folder(Path(entry.path))
    if lock is None and (running or pid == os.getpid()):  # it may be that process's, or this one's
        return
    _clear(Path(entry.path), lock)


def _clear(folder: Path, lock: int | None) -> None:
    """Remove a folder whose process has ended, as the lock says: without one, nobody is ended."""
    if lock is not None:
        end_writers(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
