"""The files of a folder without hidden ones.

A name that begins with a dot is never a model's: macOS puts ``._NAME`` beside every file on disks that are not its own.
"""

from __future__ import annotations

import os
from pathlib import Path

LONGEST_NAME = 255  # bytes, on every file system in use


def can_be_a_name(name: str) -> bool:
    """Whether a file can have a name that comes from a file: no NUL, no half of a character, not too long."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return b"\0" not in raw and len(raw) <= LONGEST_NAME


def visible(folder: Path, pattern: str) -> list[Path]:
    """What matches a glob pattern, in the order of the names, without hidden names."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
