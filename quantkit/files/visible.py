"""The files of a folder without hidden ones.

A name that begins with a dot is never a model's: macOS puts ``._NAME`` beside every file on disks that are not its own.
"""

from __future__ import annotations

from pathlib import Path

LONGEST_NAME = 255  # bytes, on every file system in use


def visible(folder: Path, pattern: str) -> list[Path]:
    """What matches a glob pattern, in the order of the names, without hidden names."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
