"""Several files that get their names together: a run that is killed between two of the renames leaves a list, with
which the next one takes the names back. So no part of a split model stays without the others."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from quantkit.files.cleaning import restore
from quantkit.files.exchange import exchange
from quantkit.files.leftovers import leftovers, remove, scratch_path
from quantkit.files.visible import visible

_LIST = ".publication"


def announce(folder: Path, names: Sequence[str]) -> None:
    """Write down which files in a temporary folder are about to get their names; one rename needs no list.

    Raises:
        OSError: the disk is full or has an error.
    """
    if len(names) > 1:
        new = folder / f"{_LIST}.new"
        new.write_text(json.dumps({name: _identity(folder / name) for name in names}), encoding="utf-8")
        os.replace(new, folder / _LIST)


def withdraw(folder: Path) -> None:
    """Forget the list: the renames have been undone."""
    with suppress(OSError):
        (folder / _LIST).unlink(missing_ok=True)


def take_back(final: Path) -> None:
    """Undo the renames that a killed run had begun; if it had made all of them, only its folder is left, and removed.

    Raises:
        OSError: the disk has an error.
    """
    if not final.parent.is_dir():
        return
    folders = [one.path for one in leftovers(final) if not one.aside]
    if not any(_has_files(folder) for folder in folders):  # journals of files that have their names
        for folder in folders:
            remove(folder)
    for folder in folders:
        names = _read(folder)
        if not names:
            continue
        place = final.parent
        done = [name for name, identity in names.items() if _identity(place / name) == identity]
        if len(done) == len(names):
            remove(scratch_path(folder))
            remove(folder)
            continue
        if any(_identity(folder / name) != names[name] for name in names.keys() - set(done)):
            done = []  # they have all had their names, and somebody has moved some since
        for name in done:
            # An older file that has changed places with the new one gets its name back.
            if not ((folder / name).exists() and exchange(place / name, folder / name)):
                os.rename(place / name, folder / name)
        for name in done:
            restore(place / name, leftovers(place / name))
        withdraw(folder)


def _has_files(folder: Path) -> bool:
    return not folder.is_dir() or bool(visible(folder, "*"))


def _read(folder: Path) -> dict[str, list[int]]:
    """The list in a folder; empty if there is none, or it is damaged."""
    try:
        found = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(found, dict) and all(os.path.basename(name) == name for name in found)
    return found if sound else {}


def _identity(path: Path) -> list[int]:
    """What a file keeps when it is renamed, and no other file has; empty if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns]
