"""What was typed in earlier chats, for the arrow keys.

A file of its own format (a JSON text a line) instead of readline's: that has no way to keep an entry of several lines
together, and its two implementations do not read each other's. Only its owner may read it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.private_file import write_text

KEPT = 1000
"""Entries that are offered; the file is cut to as many when it has twice as many."""


def history_path() -> Path | None:
    """Where the history is kept: the folder for programs' state, as the XDG specification has it; None if nowhere."""
    root = os.environ.get("XDG_STATE_HOME")
    try:
        state = Path(root) if root else Path.home() / ".local" / "state"
    except RuntimeError:  # no HOME and no such user, as in a container
        return None
    return state / "quantkit" / "chat_history.jsonl"


class History:
    """Entries of earlier chats and of this one.

    Attributes:
        entries: the oldest first.
    """

    def __init__(self, path: Path | None) -> None:
        """Read what there is.

        Args:
            path: the file, which need not exist; None keeps nothing.

        Raises:
            OutputError: the file cannot be read or cut.
        """
        self._path = path
        self.entries: list[str] = []
        if path is None:
            return
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(path, error) from None
        self.entries = [entry for line in lines[-KEPT:] if (entry := _entry(line))]
        if len(lines) >= 2 * KEPT:
            write_text(path, "".join(map(_line, self.entries)))

    def is_new(self, text: str) -> bool:
        """Whether an entry is worth keeping: not blank, and not the last one again."""
        return bool(text.strip()) and self.entries[-1:] != [text]

    def add(self, text: str) -> None:
        """Keep an entry, if it is new.

        Raises:
            OutputError: it cannot be written; nothing more is from then on.
        """
        if not self.is_new(text):
            return
        self.entries.append(text)
        path, self._path = self._path, None
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "a", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(_line(text))
        except OSError as error:
            raise _unusable(path, error) from None
        self._path = path


def _unusable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: what you type cannot be kept ({error.strerror or error})", hint="pass --no-history to do without"
    )


def _line(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) + "\n"


def _entry(line: str) -> str | None:
    """The text of a line; None for one that a killed program left half written."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
