"""Commands as they are shown to the user, quoted so that they can be copied into a shell.

Paths may have spaces, quotes and letters of any script.
"""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """The words of a command or a part of one, quoted if a shell would read them differently."""
    return shlex.join(map(str, words))


def installation(extra: str = "") -> str:
    """How to install quantkit again, or with one of its extras: it is on no package index, so from the checkout."""
    return f"in quantkit's checkout: {command('pip', 'install', f'.[{extra}]' if extra else '.')}"
