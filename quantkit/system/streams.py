"""The encodings of stdin, stdout and stderr: not every terminal and every pipe has all of Unicode.

Python takes them from the machine's settings, GBK on a Chinese Windows, and refuses to print what they lack. Nothing
here changes how files are read and written: that is UTF-8 everywhere.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO


def replace_unknown() -> None:
    """Let stdout write ``?`` for what its encoding lacks; stderr escapes it in any case."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def has_unicode(stream: TextIO | None) -> bool:
    """Whether every character can be written to *stream*."""
    return _codec(stream) == "utf-8"


def carries(stream: TextIO | None, text: str) -> bool:
    """Whether *text* arrives unchanged where *stream* leads, read as UTF-8."""
    if text.isascii() or not has_unicode(stream):
        return text.isascii()
    try:
        text.encode()
    except UnicodeEncodeError:  # surrogates, for a file's name that is not UTF-8
        return False
    return True


def begin_chat() -> str:
    """Prepare the streams for questions, answers and thoughts; returns the encoding that the machine has for stdin.

    A terminal keeps its encoding, and loses what that lacks. An answer that goes to a file or a program is UTF-8,
    whatever the machine's settings, since it may be in any language. Who sets ``PYTHONIOENCODING`` has chosen another.
    A stream of ASCII, as without any settings, is taken for one of UTF-8.
    """
    machine, chosen = _codec(sys.stdin), bool(os.environ.get("PYTHONIOENCODING"))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            own = (chosen or stream is sys.stderr or stream.isatty()) and _codec(stream) != "ascii"
            stream.reconfigure(encoding=None if own else "utf-8", errors="replace")
    return "utf-8" if machine in ("", "ascii") else machine


def piped_lines(stream: TextIO, fallback: str) -> Iterator[str]:
    """The lines of a pipe or a file in UTF-8, each without its end; one that is not UTF-8 is read in *fallback*.

    Windows PowerShell begins what it pipes with a byte order mark.
    """
    lines: Iterable[bytes] = stream.buffer
    for number, raw in enumerate(lines):
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        line = line if number else line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode()
        except UnicodeDecodeError:
            yield line.decode(fallback, "replace")


def _codec(stream: TextIO | None) -> str:
    """Python's name of a stream's encoding; "" if it has none."""
    encoding = getattr(stream, "encoding", None)
    return codecs.lookup(encoding).name if encoding else ""
