"""Second copies of a file under the names that browsers and file managers give them: ``config (1).json``."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What is put before a name, or before its ending.
_COPY = re.compile(
    r"(?P<of>copy of )?(?P<stem>[^.]+?)(?P<mark>( ?\(\d+\)| - copy( \(\d+\))?| copy( \d+)?)+)?(?P<end>\..+)", re.I
)


def original(name: str) -> str | None:
    """The name of the file that *name* is a copy of; None if it is not the name of a copy."""
    match = _COPY.fullmatch(name)
    return match["stem"] + match["end"] if match and (match["of"] or match["mark"]) else None


def copy_of(name: str, names: Iterable[str]) -> str | None:
    """The first of *names* that is a copy of *name*."""
    return next((one for one in sorted(names) if original(one) == name), None)
