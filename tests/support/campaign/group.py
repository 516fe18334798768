"""A control group with a limit on memory: what goes beyond it, the kernel kills, as in a container."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """A control group of this process's own.

    Attributes:
        folder: of its files.
        most: the file with the limit in bytes.
        peak: the file with the most that was used.
    """

    folder: Path
    most: Path
    peak: Path

    def limit(self, nbytes: int) -> None:
        """Set the limit."""
        self.most.write_text(str(nbytes), encoding="ascii")

    def used(self) -> int:
        """The most bytes that were used; pages of files, which the kernel takes back, among them."""
        return int(self.peak.read_text(encoding="ascii"))

    def run(self, work: Callable[[], None]) -> None:
        """Enter it, and work."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        work()


@contextmanager
def memory_group() -> Iterator[Group | None]:
    """A group, None where this process may not make one: it takes the superuser, and a kernel that lets it."""
    group = None
    with suppress(OSError, ValueError):
        group = _new_group()
    try:
        yield group
    finally:
        if group is not None:
            group.folder.rmdir()


def _new_group() -> Group:
    own = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text(encoding="ascii").split())
    name = f"quantkit-campaign-{os.getpid()}"
    if "memory" in own:  # version 1
        folder = _ROOT / "memory" / own["memory"].strip("/") / name
        files = ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
    else:
        folder = _ROOT / own[""].strip("/") / name
        files = ("memory.max", "memory.peak")
    folder.mkdir()
    group = Group(folder, *(folder / file for file in files))
    try:
        group.limit(sys.maxsize)
        group.used()
    except OSError:
        folder.rmdir()
        raise
    return group
