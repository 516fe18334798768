"""The names that files of a package may have: it is copied to other systems, and its manifest may be hostile."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from quantkit.files.visible import LONGEST_NAME

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
"""The page that is made from the report, see :mod:`quantkit.page`."""

FORBIDDEN_IN_NAMES = frozenset('<>:"/\\|?*')
"""Windows refuses them; a colon would name a stream inside another file there."""

# Devices of Windows, whatever the suffix; and it leaves out a dot or a blank at the end of a name.
NOT_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*[. ]", re.IGNORECASE | re.DOTALL)

_RESERVED = (MANIFEST, REPORT, PAGE)


def name_fault(name: str) -> str | None:
    """What a name must be and is not; None for a file of the folder itself that every system can have."""
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        return "the name of a file in the folder"
    if not name.isprintable() or FORBIDDEN_IN_NAMES & {*name} or NOT_ON_WINDOWS.fullmatch(name):
        return "a file name that every system allows"
    if len(name.encode()) > LONGEST_NAME:
        return f"a file name of at most {LONGEST_NAME} bytes"
    return None


def named_twice(names: Iterable[str]) -> str | None:
    """The first of a manifest's files that some system takes for an earlier one, or for the manifest or the report."""
    seen = set(map(_same, _RESERVED))
    for name in names:
        if _same(name) in seen:
            return name
        seen.add(_same(name))
    return None


def _same(name: str) -> str:
    """Equal for names that a system without upper and lower case, or with composed letters, takes for one."""
    return unicodedata.normalize("NFC", name.casefold())
