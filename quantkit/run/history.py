"""The history of what was typed in earlier chats, for the arrow keys.

The file has its own format (one JSON string per line) instead of readline's, which cannot keep a multi-line entry
together, and whose two implementations do not read each other's files. Only its owner may read it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.private_file import write_text

KEPT = 1000
"""Maximum number of entries offered; the file is cut to this number when it has twice as many."""


def history_path() -> Path | None:
    """Return the history's file, in the XDG folder for program state; None if there is no such folder."""
    root = os.environ.get("XDG_STATE_HOME")
    try:
        state = Path(root) if root else Path.home() / ".local" / "state"
    except RuntimeError:  # no HOME and no such user, as in a container
        return None
    return state / "quantkit" / "chat_history.jsonl"


class History:
    """Entries of earlier chats and of this one.

    Attributes:
        entries: oldest first.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the existing history.

        Args:
            path: the file, which need not exist; None saves nothing.

        Raises:
            OutputError: the file cannot be read or shortened.
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
        """Whether an entry is worth saving: not blank, and not the same as the last one."""
        return bool(text.strip()) and self.entries[-1:] != [text]

    def add(self, text: str) -> None:
        """Save an entry, if it is new.

        Raises:
            OutputError: it cannot be written; nothing is saved from then on.
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
        f"{path}: your chat history cannot be saved ({error.strerror or error})",
        hint="pass --no-history to chat without it",
    )


def _line(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) + "\n"


def _entry(line: str) -> str | None:
    """Return the text of a line; None for one that a killed program left half written, or another one wrote."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None
