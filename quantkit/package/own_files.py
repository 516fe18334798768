"""Is a file of a package a plain file of its folder? A package may come from anywhere, with links to elsewhere in it.

A hub's cache has links too, from ``snapshots/REVISION`` to ``blobs`` beside it; those stay inside what was downloaded.
Hard links are not told from files: they are the file, and have its sums.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

FOLDER = "a folder"
_KINDS = (
    (stat.S_ISDIR, FOLDER),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def foreign(folder: Path, name: str) -> str | None:
    """What something in a folder is, if it is no regular file of that folder; None if it is one, or is not there."""
    path = folder / name
    try:
        if stat.S_ISLNK(path.lstat().st_mode) and not _stays(folder, target := os.path.realpath(path)):
            return f"a link to {target}, outside the package"
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((what for is_kind, what in _KINDS if is_kind(mode)), None)


def is_own(folder: Path, name: str) -> bool:
    """Whether there is a regular file of that name, and it is the folder's."""
    try:
        return stat.S_ISREG((folder / name).stat().st_mode) and foreign(folder, name) is None
    except (OSError, ValueError):
        return False


def first_foreign(folder: Path, names: Iterable[str]) -> tuple[str, str] | None:
    """The first name that is no regular file of the folder, and what it is; None if there is none."""
    return next(((name, what) for name in names if (what := foreign(folder, name)) is not None), None)


def _stays(folder: Path, target: str) -> bool:
    home, place = os.path.realpath(folder), os.path.dirname(target)
    if place == home:
        return True
    above = os.path.dirname(home)
    return os.path.basename(above) == "snapshots" and place == os.path.join(os.path.dirname(above), "blobs")
