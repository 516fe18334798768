"""A program at a pseudo-terminal, and the person in front of it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Terminal:
    """Runs a program whose input, output and errors are one terminal.

    Attributes:
        seen: what it showed and nobody waited for yet.
        shown: all that it showed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        columns: int = 200,
        lines: int = 50,
        folder: Path | None = None,
        heard: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            environment: variables besides those of this process.
            columns: width of the terminal.
            lines: height of the terminal.
            folder: the current folder, None for that of this process.
            heard: given what it shows, as it comes.
        """
        self._parent, child = pty.openpty()
        self._lines, self._heard = lines, heard
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.resize(columns)
        self.seen = self.shown = ""
        self.process = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=_make_controlling_terminal,
            env={**os.environ, **environment},
            cwd=folder,
        )
        os.close(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._parent)

    def type(self, text: str | bytes) -> None:
        """Press keys; Enter is a carriage return."""
        os.write(self._parent, text.encode() if isinstance(text, str) else text)

    def resize(self, columns: int) -> None:
        """Change the width, of which the program gets a signal; what is shown stays as it is."""
        fcntl.ioctl(self._parent, termios.TIOCSWINSZ, struct.pack("HHHH", self._lines, columns, 0, 0))

    def comes(self, text: str, seconds: float = 60) -> bool:
        """Whether *text* is shown within the time; what was shown up to it is not looked at again."""
        end = time.monotonic() + seconds
        while text not in self.seen and self._read(end - time.monotonic()):
            pass
        _, found, rest = self.seen.partition(text)
        self.seen = rest if found else self.seen
        return bool(found)

    def waits(self, seconds: float = 60) -> bool:
        """Whether the program waits for a key within the time, and not just for a processor.

        A signal that reaches the line editor while it is busy is heeded with the next one, as everywhere in Python.
        """
        end, asleep = time.monotonic() + seconds, 0
        while asleep < 3 and time.monotonic() < end:
            asleep = 0 if self._read(0.02) or _is_running(self.process.pid) else asleep + 1
        return asleep == 3

    def listen(self, seconds: float) -> None:
        """Take what it shows in this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._read(left)

    def ended(self, seconds: float) -> bool:
        """Whether the program ends within the time; reads on meanwhile, as terminals do."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.1)
        return self.process.poll() is not None

    def ends(self, seconds: float = 60) -> int:
        """The exit code, when the program has ended."""
        self.ended(seconds)
        return self.process.wait(timeout=1)

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self._parent], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._parent, 4096)
        except OSError:  # the program left
            return False
        text = self._decoder.decode(data)
        self._heard(text)
        self.seen += text
        self.shown += text
        return bool(data)


def quantkit(*arguments: str) -> list[str]:
    """The command line of quantkit in this Python."""
    return [sys.executable, "-m", "quantkit", *arguments]


def _is_running(pid: int) -> bool:
    """Whether its main thread has something to do, as far as the system says so."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:  # not Linux
        return False
    return status.rpartition(")")[2].split()[0] != "S"


def _make_controlling_terminal() -> None:
    """Make the standard input the terminal of this session, so that its Ctrl-C becomes a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
