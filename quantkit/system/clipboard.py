"""The clipboard, of this machine through a program, and of the one whose terminal shows us through OSC 52.

OSC 52 is an escape sequence with which a terminal copies a text, also through SSH; a terminal that does not allow it
ignores it. So a program is asked too, where there is one for the desktop that the chat runs in.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_SEQUENCE = 74_994
"""The longest text in bytes that goes to a terminal: many terminals take sequences of at most 100,000 characters."""

_SECONDS = 5.0


@dataclass(frozen=True)
class Program:
    """A program that copies its standard input.

    Attributes:
        command: its name and arguments.
        variable: set in the environments that it works in; "" for all.
        remote: whether its clipboard is the right one through SSH too.
        encoding: of its input.
    """

    command: tuple[str, ...]
    variable: str = ""
    remote: bool = False
    encoding: str = "utf-8"


PROGRAMS = (
    Program(("wl-copy",), "WAYLAND_DISPLAY"),
    Program(("xclip", "-selection", "clipboard"), "DISPLAY", remote=True),  # which SSH forwards
    Program(("xsel", "--clipboard", "--input"), "DISPLAY", remote=True),
    Program(("pbcopy",)),
    Program(("clip.exe",), encoding="utf-16-le"),  # Windows, and Linux in it
    Program(("tmux", "load-buffer", "-w", "-"), "TMUX", remote=True),  # sends OSC 52 itself; tmux stops that of others
)


def copy_with_program(text: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Copy a text with the first program that can; returns the program's name, None if there is none."""
    far = bool(environment.get("SSH_CONNECTION"))
    for program in PROGRAMS:
        name = program.command[0]
        if (program.variable and not environment.get(program.variable)) or (far and not program.remote):
            continue
        path = _windows_program(name, environment) if sys.platform == "win32" else shutil.which(name)
        if path and _runs([path, *program.command[1:]], text.encode(program.encoding, "replace")):
            return name
    return None


def osc52(text: str) -> str:
    """The sequence with which a terminal copies a text, "" for one that is too long.

    Source: xterm's ctlseqs, "Manipulate Selection Data".
    """
    data = text.encode(errors="replace")
    return f"\x1b]52;c;{base64.b64encode(data).decode()}\a" if len(data) <= LONGEST_SEQUENCE else ""


def _windows_program(name: str, environment: Mapping[str, str]) -> str | None:
    """Windows looks for programs in the current folder first, which may be a model's."""
    path = os.path.join(environment.get("SYSTEMROOT", r"C:\Windows"), "System32", name)
    return path if os.path.isfile(path) else None


def _runs(command: list[str], data: bytes) -> bool:
    # xclip and wl-copy stay in the background, so they must not hold streams that someone waits for.
    silent = subprocess.DEVNULL
    try:
        return not subprocess.run(
            command, input=data, stdout=silent, stderr=silent, timeout=_SECONDS, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
