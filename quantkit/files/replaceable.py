"""What an output may replace: nothing that quantkit did not make.

``--overwrite`` is meant for the last run's output. A slip in ``-o`` must not cost a folder of somebody's work, so a
folder is only replaced if it carries the mark of its kind of output. An empty folder needs no permission.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import CheckpointError, OutputError
from quantkit.files.json_file import read_json

_MOST_NAMES = 5


@dataclass(frozen=True)
class Mark:
    """What tells an output folder from others: a JSON file with some keys, because others use its name too.

    Attributes:
        file: its name.
        keys: keys of the object in it.
    """

    file: str
    keys: tuple[str, ...]

    def is_on(self, folder: Path) -> bool:
        """Whether a folder has it."""
        try:
            found = read_json(folder / self.file)
        except CheckpointError:
            return False
        return all(key in found for key in self.keys)


def check_free(final: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it may be overwritten.

    Raises:
        OutputError: by name.
    """
    if not os.path.lexists(final):
        return
    if not overwrite:
        raise OutputError(f"{final}: already exists", hint="choose another output path, or pass --overwrite")
    _check_not_here(final)


def check_free_folder(final: Path, mark: Mark | None, *, overwrite: bool) -> None:
    """Refuse a folder as an output, unless it is empty, or may be overwritten and has the mark.

    A symbolic link is replaced itself; what it points to stays.

    Args:
        final: the folder.
        mark: of this kind of output; None if none has one.
        overwrite: whether a folder with the mark may be replaced.

    Raises:
        OutputError: by name, with what is in the folder.
    """
    names = () if final.is_symlink() or not final.is_dir() else sorted(os.listdir(final))
    if final.is_dir() and not final.is_symlink() and not names:
        _check_not_here(final)
        return
    check_free(final, overwrite=overwrite)
    if names and not (mark is not None and mark.is_on(final)):
        shown = ", ".join(names[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        raise OutputError(
            f"{final}: was not made by this command, so it is not replaced; it contains {shown}{more}",
            hint="choose another output path, or move the folder away yourself",
        )


def _check_not_here(final: Path) -> None:
    if final.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(
            f"{final}: contains the current folder, so it cannot be replaced", hint="choose another output path"
        )
