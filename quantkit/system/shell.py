"""Commands as they are shown to the user: typed or pasted as they stand, they mean the same.

Paths may have blanks, quotes and letters of any script.
"""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """The words of a command, or of a part of one, quoted where a shell would read them in another way."""
    return shlex.join(map(str, words))


def installation(extra: str = "") -> str:
    """How to install quantkit again, or with one of its extras: it is on no package index, so from the checkout."""
    return f"in quantkit's checkout: {command('pip', 'install', f'.[{extra}]' if extra else '.')}"
