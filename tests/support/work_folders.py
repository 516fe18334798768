"""Folders to break things in: what goes in, and an empty folder in which the output is to be made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class WorkFolders:
    """The folders of one fault.

    Attributes:
        root: everything is below it.
        named: the paths that a command may name, as ``{out}``.
    """

    named: ClassVar[tuple[str, ...]] = ("root", "out")

    root: Path

    @property
    def outputs(self) -> Path:
        """The folder in which the output is to be made; empty at the beginning."""
        return self.root / "outputs"

    @property
    def out(self) -> Path:
        return self.outputs / "out"

    def fill(self, text: str) -> str:
        """*text* with the paths in the place of their names."""
        for name in self.named:
            text = text.replace("{" + name + "}", str(getattr(self, name)))
        return text
