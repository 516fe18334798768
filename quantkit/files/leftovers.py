"""What killed runs left of an output: temporary folders, and what of their files can be continued.

A temporary name contains the process id and the system that it is of (:func:`quantkit.system.host.host_token`), and the
run holds a lock on the folder as long as it lives: after a restart of the machine, another process may have the id, and
in another container none. On a disk that machines share, a lock may not reach from one to the other; there the folder's
times count, which a run that lives keeps new.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.files.journal import Journal, journal_path, journals_in, read_journal
from quantkit.files.signs_of_life import is_silent
from quantkit.system.folder_lock import HAS_LOCKS, lock_folder
from quantkit.system.host import host_token, same_system
from quantkit.system.running import is_running

_SCRATCH = "-scratch"


@dataclass(frozen=True)
class Leftover:
    """Something with a temporary name, of a run that is over.

    Attributes:
        path: where it is.
        aside: it is an older output, which was moved aside.
    """

    path: Path
    aside: bool


@dataclass(frozen=True)
class Part:
    """What earlier runs left of one file.

    Attributes:
        path: where it is.
        journals: those that are of it: more than one after several killed runs.
        damaged: it has a journal that cannot be read.
    """

    path: Path
    journals: tuple[Journal, ...]
    damaged: bool


def temporary_path(final: Path) -> Path:
    """The temporary folder of this process for an output."""
    return final.with_name(f".{final.name}.quantkit-{_own()}")


def aside_path(final: Path) -> Path:
    """Where this process moves an older output aside."""
    return final.with_name(f".{final.name}.quantkit-old-{_own()}")


def _own() -> str:
    return f"{os.getpid()}.{host_token()}"


def scratch_path(temporary: Path) -> Path:
    """The folder for intermediate files next to a temporary folder."""
    return temporary.with_name(f"{temporary.name}{_SCRATCH}")


def leftovers(final: Path, wait: Callable[[str], None] | None = None) -> Iterator[Leftover]:
    """What runs that are over have left of an output.

    Args:
        final: the output.
        wait: until it is clear whether a run on another machine lives, of which something can be continued; told why.
    """
    name = re.escape(final.name)
    pattern = re.compile(rf"(\.{name}\.quantkit-(old-)?(\d+)(?:\.([0-9a-f]{{16}}))?)(?:{_SCRATCH})?")
    for entry in sorted(final.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None:
            continue
        run, aside, pid, token = match.groups()
        if not _is_in_use(final.with_name(run), int(pid), token or host_token(), wait):  # older versions had no token
            yield Leftover(entry, bool(aside))


def begun_files(folder: Path) -> Iterator[tuple[Path, Journal]]:
    """The files in a folder of which something is finished, or that lie in another one by now."""
    for name, path in journals_in(folder).items():
        journal = read_journal(path)
        if journal is not None and journal.records:
            yield folder / name, journal


def has_begun(folders: Iterable[Path]) -> bool:
    """Whether something in these folders can be continued; a journal without its file is of one that has its name."""
    folders = tuple(folders)
    begun = {file.name for folder in folders for file, _ in begun_files(folder)}
    return any(_is_file(folder / name) for folder in folders for name in begun)


def finished_bytes(folders: Sequence[Path]) -> tuple[int, int]:
    """How many bytes are finished of files in these folders, and the sizes of these files."""
    done, sizes = 0, 0
    for file, journal in (found for folder in folders for found in begun_files(folder)):
        if _is_file(file):
            done, sizes = done + journal.nbytes, sizes + file.stat().st_size
    return done, sizes


def find_part(folders: Sequence[Path], file: str) -> Part | None:
    """What is there of a file, None if there is nothing.

    It is in one of these folders; journals of it may be in others, if a run was killed while it took over another's.
    """
    paths = [folder / file for folder in folders if _is_file(folder / file)]
    journals = [journal_path(folder / file) for folder in folders if journal_path(folder / file).is_file()]
    if not paths or not journals:
        return None
    read = [read_journal(path) for path in journals]
    best = max(paths, key=lambda path: _size(journal_path(path)))
    return Part(best, tuple(filter(None, read)), None in read)


def move_part(path: Path, to: Path) -> None:
    """Move a file with its journal; the journal first, so that the file is never without one."""
    if journal_path(path).exists():
        os.rename(journal_path(path), journal_path(to))
    os.rename(path, to)


def prune(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Remove folders of which nothing can be continued any more.

    Returns:
        The others.
    """
    for folder in folders:
        for name, path in journals_in(folder).items():
            taken_over = any((other / name).exists() and journal_path(other / name).exists() for other in folders)
            if taken_over and not (folder / name).exists():
                path.unlink()  # who took the file over has checked it, and has a journal of it
    begun = {file.name for folder in folders for file, _ in begun_files(folder)}
    for folder in folders:
        if not any(_is_file(folder / name) or journal_path(folder / name).exists() for name in begun):
            remove(folder)
    return tuple(folder for folder in folders if folder.exists())


def make_way(folder: Path) -> Path:
    """Rename what is left of a run that had the id of this process, as every run in a container may have."""
    number = folder.name.rpartition("-")[2]
    while True:
        number = f"0{number}"
        to = folder.with_name(f"{folder.name.rpartition('-')[0]}-{number}")
        if not (to.exists() or scratch_path(to).exists()):
            break
    for path, new in ((folder, to), (scratch_path(folder), scratch_path(to))):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, new)
    return to


def hold(folder: Path) -> int | None:
    """Take the lock of a folder, until the file descriptor is closed; None where the system has no such locks."""
    return lock_folder(folder, wait=True)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_in_use(temporary: Path, pid: int, token: str, wait: Callable[[str], None] | None) -> bool:
    """Whether the run of a temporary folder lives."""
    if token == host_token():
        return _is_in_use_here(temporary, pid)
    try:
        fd = lock_folder(temporary, shared=True) if temporary.is_dir() and not temporary.is_symlink() else None
    except BlockingIOError:
        return True
    except OSError:  # removed meanwhile
        fd = None
    if fd is not None:
        os.close(fd)
        if same_system(token):  # another container: locks are the same
            return False
    return not is_silent(temporary, wait if has_begun((temporary, scratch_path(temporary))) else None)


def _is_in_use_here(temporary: Path, pid: int) -> bool:
    """The same for a process of this system; of a folder that has a journal the lock says so."""
    if not HAS_LOCKS or not temporary.is_dir() or temporary.is_symlink():
        return is_running(pid)
    try:
        fd = lock_folder(temporary, shared=True)
    except BlockingIOError:
        return pid != os.getpid()
    if fd is None:
        return is_running(pid)
    os.close(fd)
    return is_running(pid) and not journals_in(temporary)


def _is_file(path: Path) -> bool:
    """Whether it is a file itself: nobody but a stranger makes links here."""
    return path.is_file() and not path.is_symlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
