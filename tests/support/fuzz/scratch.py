"""The folder in which readers read: one for the process, emptied for each input, and removed at its end."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path


@cache
def root() -> Path:
    """The folder around :func:`place`, in memory where the system has such a disk; nothing in it is a reader's."""
    return _temporary()


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=_prefix(os.getpid()), dir=_memory())).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remove_left(process: int) -> None:
    """Remove the folders of a process that has ended without doing so, as libFuzzer ends it."""
    for folder in _memory().glob(f"{_prefix(process)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(process: int) -> str:
    return f"quantkit-fuzz-{process}-"


def _memory() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def place() -> Path:
    """The one folder in which an input may read and write."""
    return root() / "input"


def clear() -> None:
    """Empty it; :func:`tests.support.fuzz.invariant.hold` does before each input."""
    shutil.rmtree(place(), ignore_errors=True)
    place().mkdir()


def folder(files: Mapping[str, bytes]) -> Path:
    """Make a folder of these files, whose names may have ``/``."""
    place().mkdir(exist_ok=True)
    made = place() / f"{len(os.listdir(place()))}"
    made.mkdir()
    return _filled(made, files)


def standing(files: Mapping[str, bytes]) -> Path:
    """Make a folder that does not depend on an input, once for the process: readers may read it, and not write."""
    return _filled(_temporary(), files)


def _filled(made: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return made


def file(name: str, content: bytes) -> Path:
    """A folder of one file: the file."""
    return folder({name: content}) / name
