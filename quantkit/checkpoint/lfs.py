"""Pointers of git-lfs: the small text that a clone without git-lfs has in place of a large file."""

from __future__ import annotations

from pathlib import Path

from quantkit.system.shell import command

LFS = "install git-lfs"
"""How every hint about a pointer begins."""
_BEGINS = b"version https://git-lfs.github.com/spec/"
_LONGEST = 1024  # the specification's limit for a pointer, in bytes


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer. False for one that cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST:
            return False
        with path.open("rb") as file:
            return file.read(len(_BEGINS)) == _BEGINS
    except OSError:
        return False


def lfs_hint(path: Path) -> str:
    """The command that gets the file."""
    return f"{LFS}, then: {command('git', '-C', path.parent, 'lfs', 'pull')}"
