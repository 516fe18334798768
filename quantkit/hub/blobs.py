"""Content in the hub client's cache: ``blobs/HASH`` of a repository, from which the client makes its snapshots.

huggingface_hub 2.4 removes what it has of a file if the download breaks off, and never looks at what a killed one left.
So content that comes over plain HTTP is received here: what has arrived stays as ``HASH.quantkit.incomplete`` (``hf
cache prune`` clears that, too), the next run continues it, and it gets its name only when its hash fits.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from quantkit.hub.patience import Patience
from quantkit.hub.remote_file import RemoteFile, is_intact
from quantkit.hub.transfer import Place, receive
from quantkit.system.folder_lock import lock_folder


class DamagedError(Exception):
    """What came in is not what the hub lists."""


def blobs_folder(repo: str) -> Path:
    """The folder of a repository's content in the cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"


def part_path(folder: Path, file: RemoteFile) -> Path:
    """Where the part of a file is that has arrived."""
    return folder / f"{file.digest}.quantkit.incomplete"


def bytes_here(folder: Path, file: RemoteFile) -> int:
    """How many bytes of a file have arrived."""
    for path in (folder / file.digest, part_path(folder, file)):
        if path.is_file():
            return min(path.stat().st_size, file.nbytes)
    return 0


def bring(
    file: RemoteFile,
    folder: Path,
    locate: Callable[[], Place],
    *,
    reach: Callable[[int], None],
    note: Callable[[str], None],
    patience: Patience,
) -> None:
    """Bring the content of a file into the cache.

    Args:
        file: with a digest.
        folder: of the repository's content.
        locate: as for :func:`quantkit.hub.transfer.receive`, which says what else is raised.
        reach: told how many bytes are there.
        note: told why it waits or begins again.
        patience: the bounds.

    Raises:
        DamagedError: what came in is something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blob = folder / file.digest
    with _held(folder, note) as alone:
        if blob.exists():
            return
        # Where nobody can be kept out, each has a file of its own, and nothing to continue.
        part = part_path(folder, file) if alone else folder / f"{file.digest}.{uuid.uuid4().hex[:8]}.incomplete"
        try:
            _fill(part, file, locate, reach=reach, note=note, patience=patience)
            os.replace(part, blob)
        finally:
            if part.is_file() and (not alone or part.stat().st_size == 0):
                part.unlink()


def _fill(
    part: Path,
    file: RemoteFile,
    locate: Callable[[], Place],
    *,
    reach: Callable[[int], None],
    note: Callable[[str], None],
    patience: Patience,
) -> None:
    fd = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        for last in (False, True):
            begun = os.fstat(fd).st_size
            if begun > file.nbytes:
                os.ftruncate(fd, begun := 0)
            found = receive(fd, begun, file.nbytes, locate, reach=reach, note=note, patience=patience)
            if is_intact(part, file):
                os.fsync(fd)
                return
            os.ftruncate(fd, 0)
            if last or found.whole:
                raise DamagedError
            note("what had arrived before does not fit the hub's hash; all of it is fetched again")
    finally:
        os.close(fd)


@contextmanager
def _held(folder: Path, note: Callable[[str], None]) -> Iterator[bool]:
    """Be the only one who receives content of this repository; whether that can be had here."""
    try:
        lock = lock_folder(folder)
    except BlockingIOError:
        note("another process downloads from the same repository; waiting for it")
        lock = lock_folder(folder, wait=True)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)
