"""The fault layer: compiled, and told what to do. ``tests/support/native/fault_layer.c`` is the layer itself."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "native" / "fault_layer.c"
_STATE_BYTES = 64

# The layer's numbers of the kinds of calls.
WRITE, ALLOCATE, SYNC, RENAME, CREATE, LINK, REMOVE, CLOSE, READ = (1 << bit for bit in range(9))
CHANGES = WRITE | ALLOCATE | SYNC | RENAME | CREATE | LINK | REMOVE
"""All calls that change files."""
TAKES_ROOM = WRITE | ALLOCATE | RENAME | CREATE | LINK
"""The calls that a full disk refuses: a file or a folder can still be removed."""


@dataclass(frozen=True)
class Fault:
    """What the layer does in one run.

    Attributes:
        mode: ``count``, ``error``, ``short``, ``kill``, ``hang`` or ``record``.
        kinds: the calls that count, a sum.
        at: the number of the call, from 1.
        lasts: all later calls fail as well.
        error: the errno of calls that fail.
        sleep: milliseconds that it takes until a call fails or, with ``hang``, goes on.
        ends: milliseconds after which nothing fails any more; 0 for no end.
        clock: seconds by which the clock jumps.
        clock_at: the number of the call of the clock from which it is wrong.
        roots: the folders whose files are meant; empty for the workplace's output, temporary and cache folder.
    """

    mode: str = "count"
    kinds: int = CHANGES
    at: int = 0
    lasts: bool = False
    error: int = 0
    sleep: int = 0
    ends: int = 0
    clock: int = 0
    clock_at: int = 0
    roots: tuple[Path, ...] = ()


def compiler() -> list[str] | None:
    """The C compiler's command: ``$CC``, or ``cc``; None if there is none."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if shutil.which(command[0]) else None


def compile_layer(folder: Path) -> Path:
    """The shared library, made in *folder*; a compiler must be there."""
    command, library = compiler(), folder / "fault_layer.so"
    assert command is not None
    subprocess.run([*command, "-O1", "-fPIC", "-shared", str(_SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


def rearm(library: Path) -> None:
    """Let the layer read its variables again, in a forked copy of a process in which it is loaded."""
    ctypes.CDLL(str(library)).fault_arm()


class State:
    """The file in which the layer counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        """Begin at 0. A new file: processes of an earlier run may still count in the old one."""
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(bytes(_STATE_BYTES))

    def read(self) -> tuple[int, int, int]:
        """Calls seen, calls that failed, calls of the clock."""
        seen, failed, clock = struct.unpack_from("<qqq", self.path.read_bytes())
        return seen, failed, clock


def variables(fault: Fault, state: Path, roots: Sequence[Path], log: Path | None) -> Mapping[str, str]:
    """The layer's variables for a run; the process that ``kill`` ends is added by the process itself."""
    found = {
        "FAULT_MODE": fault.mode,
        "FAULT_KINDS": str(fault.kinds),
        "FAULT_AT": str(fault.at),
        "FAULT_LASTS": str(int(fault.lasts)),
        "FAULT_ERRNO": str(fault.error),
        "FAULT_SLEEP": str(fault.sleep),
        "FAULT_FOR": str(fault.ends),
        "FAULT_CLOCK": str(fault.clock),
        "FAULT_CLOCK_AT": str(fault.clock_at),
        "FAULT_STATE": str(state),
        "FAULT_ROOTS": ":".join(map(str, fault.roots or roots)),
    }
    return found if log is None else {**found, "FAULT_LOG": str(log)}
