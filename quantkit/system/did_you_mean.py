"""The known names that are closest to one that nobody knows: every refusal of a name asks its question here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SHORT = 3
_SEPARATORS = re.compile(r"[\s._-]+")


def close_names(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names closest to *name*, the closest first; case and separators make no difference."""
    plain: dict[str, list[str]] = {}
    for one in known:
        plain.setdefault(_plain(one), []).append(one)
    asked = _plain(name)
    # Most short names are one letter from several others: q9_0 means none of them.
    close = difflib.get_close_matches(asked, plain, n=most, cutoff=0.6 if len(asked) > _SHORT else 0.7)
    return [one for key in close for one in plain[key]][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean build?``, or "" if nothing is close."""
    close = close_names(name, known)
    return f"did you mean {close[0]}?" if close else ""


def choose_hint(name: str, known: Iterable[str]) -> str:
    """The hint of a refusal: the name that was meant, or all that there are."""
    names = list(known)
    return did_you_mean(name, names) or f"use one of: {', '.join(names)}"


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())
