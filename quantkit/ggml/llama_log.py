"""Captures llama.cpp's log, which otherwise goes to stderr.

llama.cpp has one log callback per process. Captures can be nested: the innermost gets the lines, and the previous
callback is restored afterwards.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class CapturedLog:
    """The text captured so far."""

    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


_stack: list[CapturedLog] = []
_lock = threading.Lock()
_callback: object | None = None  # must outlive every call of llama.cpp


def _install() -> None:
    global _callback
    if _callback is not None:
        return
    from quantkit.ggml.llama import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def receive(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        if _stack:
            _stack[-1].parts.append(text.decode(errors="replace"))

    llama_cpp.llama_log_set(receive, ctypes.c_void_p(0))
    _callback = receive


def receiver() -> object:
    """The callback, for a library that has a log of its own: what it writes is captured as llama.cpp's."""
    with _lock:
        _install()
    return _callback


@contextmanager
def captured_log() -> Iterator[CapturedLog]:
    """Capture llama.cpp's log inside the block. Outside of any block it is dropped, never printed."""
    log = CapturedLog()
    with _lock:
        _install()
        _stack.append(log)
    try:
        yield log
    finally:
        with _lock:
            _stack.remove(log)
