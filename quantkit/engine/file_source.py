"""Sources whose rows come from files: what decides them, so that a stream can be continued by another process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from quantkit.engine.stream import RowSource
from quantkit.files.fileio import blocks, sha256_of
from quantkit.plan.values import PlannedTensor


@dataclass(frozen=True)
class HashedFile:
    """A file that does not change, and whose sha256 is computed once, when it is first asked for."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """Of all its bytes, hexadecimal.

        Raises:
            OSError: it cannot be read.
        """
        return sha256_of(blocks(self.path))


@dataclass(frozen=True)
class ReadFiles:
    """What decides the rows of a source, besides the plan.

    Attributes:
        files: files that may be too large to be hashed.
        whole: files that are small, or change often: adapters, and how they are merged.
        settings: what is in no file, such as the weight of an adapter.
    """

    files: tuple[Path, ...] = ()
    whole: tuple[HashedFile, ...] = ()
    settings: tuple[str, ...] = ()

    def __add__(self, other: ReadFiles) -> ReadFiles:
        return ReadFiles(self.files + other.files, self.whole + other.whole, self.settings + other.settings)


class FileSource(RowSource, Protocol):
    """A source that reads files."""

    def reads(self) -> ReadFiles:
        """What decides its rows."""

    def measures(self, tensor: PlannedTensor) -> bool:
        """Whether it measures the rows of a tensor while it hands them out: then it must be asked for all of them, even
        for those that an earlier run has written."""
