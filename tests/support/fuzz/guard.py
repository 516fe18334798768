"""Sees what a reader does beside reading: an audit hook refuses files outside of its folder, processes and connections.

A hook cannot be taken away again; outside of :func:`guarded` it does nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tests.support.fuzz.scratch import place, root

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events whose text arguments are paths that change.
_CHANGES = frozenset({
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree",
})  # fmt: skip
_NEVER = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "socket.bind", "socket.connect",
    "socket.getaddrinfo", "subprocess.Popen", "urllib.Request",
})  # fmt: skip

_refuse: Callable[[str, tuple[Any, ...]], None] | None = None


class ForbiddenError(Exception):
    """What a reader must not do."""


@contextmanager
def guarded(allows: Collection[str] = ()) -> Iterator[None]:
    """Refuse and remember what a reader must not do.

    Args:
        allows: names of audit events that are not looked at.

    Raises:
        ForbiddenError: something was refused, also if the reader made an error of its own of it.
    """
    global _refuse
    seen: list[str] = []
    inside, around = f"{place()}{os.sep}", f"{root()}{os.sep}"

    def outside(path: object, below: str = "") -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None  # an open file, which was looked at when it was opened
        real = os.path.realpath(os.path.join(below, os.fsdecode(path)))
        return None if f"{real}{os.sep}".startswith(inside) else real

    def look(event: str, arguments: tuple[Any, ...]) -> str | None:
        if event in _NEVER:
            return f"{event} {arguments[:2]}"
        if event == "open":
            path, _, flags = arguments
            found = outside(path)
            writes = isinstance(flags, int) and flags & _WRITES and found != os.devnull
            if found and (writes or found.startswith(around)):
                return f"opens {found}"
        elif event in _CHANGES:
            last = arguments[-1]  # dir_fd: -1 for none
            below = os.readlink(f"/proc/self/fd/{last}") if isinstance(last, int) and last > 2 else ""
            found = next(filter(None, (outside(path, below) for path in arguments)), None)
            if found:
                return f"{event} {found}"
        return None

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in allows and (found := look(event, arguments)):
            seen.append(found)
            raise ForbiddenError(found)

    _install()
    _refuse = refuse
    try:
        yield
    finally:
        _refuse = None
        if seen:
            raise ForbiddenError(seen[0])


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _refuse is not None and (event == "open" or event in _CHANGES or event in _NEVER):
        _refuse(event, arguments)


@cache
def _install() -> None:
    sys.addaudithook(_hook)
