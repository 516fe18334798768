"""A real disk that loses its power: ext4 in a file, shut down without a flush, as developers of file systems do."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NOTHING_FLUSHED = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_NBYTES = 64 << 20


class Disk:
    """A mounted disk.

    Attributes:
        folder: where it is.
    """

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self.folder = image, folder

    def flush(self) -> None:
        """What is there is on the disk."""
        _run("sync", "-f", str(self.folder))

    def cut(self) -> None:
        """Cut the power: what is not flushed is lost, and every call fails from now on."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NOTHING_FLUSHED))
        finally:
            os.close(fd)

    def again(self) -> None:
        """Switch it on: the file system replays its journal."""
        _run("umount", str(self.folder))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.folder))


@contextmanager
def disk(image: Path, folder: Path) -> Iterator[Disk | None]:
    """A new disk at *folder*; None where this process may not mount one, or there is no mkfs.ext4."""
    made = None
    if os.geteuid() == 0 and shutil.which("mkfs.ext4"):
        with suppress(subprocess.CalledProcessError):
            with image.open("wb") as file:
                file.truncate(_NBYTES)
            _run("mkfs.ext4", "-q", "-F", str(image))
            made = Disk(image, folder)
            made.mount()
            (folder / "lost+found").rmdir()
            made.flush()
    try:
        yield made
    finally:
        if made is not None:
            _run("umount", str(folder))
        image.unlink(missing_ok=True)


def mounts_of_its_own(command: Sequence[str]) -> list[str]:
    """*command* with mounts that end with it, where that can be had."""
    alone = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0 or shutil.which(alone[0]) is None:
        return list(command)
    can = subprocess.run([*alone, "true"], check=False, capture_output=True).returncode == 0
    return [*alone, *command] if can else list(command)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
