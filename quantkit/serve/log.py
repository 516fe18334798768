"""What uvicorn and asyncio say, once per kind: anybody who can connect can make them say it again and again."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import Any

_MOST_KINDS = 50
_PLAIN = {
    "Invalid HTTP request received.": "a client sent something that is not HTTP",
    "socket.accept() out of system resource": "no more connections: this process has too many open files",
}
# At the end of the server, and of no interest then.
_SILENT = ("Cancel %s running task(s), timeout graceful shutdown exceeded",)


class OncePerKind(logging.Handler):
    """Notes the first message of each kind."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note
        self._kinds: set[object] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record, unless one of its kind was noted."""
        error = record.exc_info[1] if record.exc_info else None
        self.say(str(record.msg), record.getMessage(), error)

    def loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note an error that reached the event loop."""
        message = str(context.get("message") or "an error")
        self.say(message, message, None if message in _PLAIN else context.get("exception"))

    def say(self, kind: str, message: str, error: BaseException | None) -> None:
        """Note *message*, and where *error* came from."""
        if kind in _SILENT or isinstance(error, asyncio.CancelledError):
            return
        place = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        key = (kind, type(error), *((frame.filename, frame.lineno) for frame in place))
        if key in self._kinds or len(self._kinds) >= _MOST_KINDS:
            return
        self._kinds.add(key)
        text = _PLAIN.get(message, message.strip())
        lines = [] if error is None else "".join(traceback.format_exception(error)).splitlines()
        for line in (f"{text} (said once)", *lines):
            self._note(line)
