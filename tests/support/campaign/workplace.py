"""Where a campaign runs: tiny inputs, an empty folder for outputs, and folders for temporary files and caches."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.work_folders import WorkFolders

Tree = dict[str, str]
"""A sha256 by relative path; of a link where it leads, of a folder ``folder``."""


@dataclass(frozen=True)
class Workplace(WorkFolders):
    """Folders of one campaign."""

    named = ("inputs", "out")

    @property
    def inputs(self) -> Path:
        return self.root / "inputs"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def said(self) -> Path:
        """What runs print; no fault reaches it."""
        return self.root / "said"

    def environment(self) -> dict[str, str]:
        """The variables of a run: nothing outside of this folder is written, and nothing is downloaded."""
        return {
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(self.cache),
            "HF_HOME": str(self.cache / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }

    def clear(self) -> None:
        """Empty the folders for outputs and temporary files."""
        for folder in (self.outputs, self.temporary):
            folder.mkdir(exist_ok=True)  # it may be a disk of its own
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def tree_of(path: Path) -> Tree:
    """What is in a folder, or in a file (its name is then empty)."""
    if path.is_symlink() or not path.is_dir():
        return {"": _sum(path)} if os.path.lexists(path) else {}
    return {str(entry.relative_to(path)): _sum(entry) for entry in sorted(path.rglob("*"))}


def _sum(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
