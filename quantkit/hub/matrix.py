"""An importance matrix as a value: a file here, or one in a repository of a hub.

Those who publish quantized files often publish the matrix beside them, under names such as ``imatrix.gguf``,
``NAME.imatrix.gguf`` or ``NAME-imatrix.dat``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import HubError
from quantkit.hub.source import HubId, parse_source
from quantkit.system.progress import Reporter
from quantkit.system.shell import command

_SUFFIXES = (".gguf", ".dat")
_USUAL = re.compile(r"(?:.*[._-])?imatrix(?:[._-].*)?\.(?:gguf|dat)|.*\.imatrix", re.IGNORECASE)


@dataclass(frozen=True)
class HubMatrix:
    """An importance matrix on Hugging Face's hub.

    Attributes:
        id: the repository.
        file: its name there; "" for the one with a usual name.
    """

    id: HubId
    file: str = ""

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.id}:{self.file}" if self.file else str(self.id)


Matrix = Path | HubMatrix


def parse_matrix(text: str, base: Path = Path()) -> Matrix:
    """Interpret *text*: a path that exists, else ``org/name:FILE`` or ``org/name``, else a path that does not exist.

    A name that ends as a matrix does is a path.

    Args:
        text: as typed.
        base: the folder that relative paths start from.

    Raises:
        HubError: an id of another hub.
    """
    path = base / text
    if os.path.exists(path):
        return path
    repo, colon, file = text.partition(":")
    if repo == "modelscope":
        raise HubError(
            f"{text}: importance matrices are only fetched from Hugging Face",
            hint="download the file from ModelScope, and give its path",
        )
    if not colon and text.lower().endswith(_SUFFIXES):
        return path
    found = parse_source(repo, base) if repo else path
    return HubMatrix(found, file) if isinstance(found, HubId) and bool(colon) == bool(file) else path


def choose_matrix(source: HubMatrix, names: Collection[str]) -> str:
    """The file that is meant.

    Args:
        source: what was asked for.
        names: the files of the repository.

    Raises:
        HubError: it is not there, or several files have usual names.
    """
    if source.file:
        if source.file in names:
            return source.file
        found = sorted(name for name in names if _USUAL.fullmatch(Path(name).name))
        there = f"; it has {', '.join(found[:8])}" if found else ""
        raise HubError(f"{source.id}: no file {source.file!r}{there}", hint="give the name of one of its files")
    found = sorted(name for name in names if _USUAL.fullmatch(Path(name).name))
    if len(found) == 1:
        return found[0]
    if not found:
        raise HubError(
            f"{source.id}: no file whose name says that it is an importance matrix (imatrix, .gguf or .dat)",
            hint=f"name the file: {command('--imatrix', f'{source.id}:FILE')}",
        )
    raise HubError(
        f"{source.id}: {len(found)} importance matrices: {', '.join(found[:8])}{' and more' if len(found) > 8 else ''}",
        hint=f"choose one: {command('--imatrix', f'{source.id}:{found[0]}')}",
    )


def local_matrix(source: Matrix, reporter: Reporter) -> Path:
    """The file of a matrix: one on a hub is downloaded into the client's cache, a path is returned unchanged.

    Raises:
        HubError: it cannot be downloaded; the message says why.
    """
    if isinstance(source, Path):
        return source
    from quantkit.hub.huggingface import download_file

    path = download_file(source.id, lambda names: choose_matrix(source, names), reporter)
    reporter.note(f"importance matrix: {path.name} of {source.id}")
    return path
