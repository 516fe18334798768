"""Commands as they are shown to the user, quoted so that they can be copied into a shell.

Paths may have spaces, quotes and letters of any script.
"""

from __future__ import annotations

import os
import re
import shlex

# Neither cmd nor PowerShell reads anything into these, letters of any script included.
_PLAIN_ON_WINDOWS = re.compile(r"[\w+=:./\\-]+")

# What ends or changes a text in PowerShell's double quotes, and everything that it takes for a single quote.
_IN_DOUBLE_QUOTES = '"\u201c\u201d\u201e$`'
_SINGLE_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")


def command(*words: object) -> str:
    """The words of a command or a part of one, quoted if a shell of this system would read them differently."""
    quote = windows_word if os.name == "nt" else shlex.quote
    return " ".join(quote(str(word)) for word in words)


def windows_word(text: str) -> str:
    """A word that cmd and PowerShell read the same; PowerShell's alone if cmd has no way to write it.

    To cmd, single quotes are letters. In double quotes, PowerShell replaces what follows ``$`` and a backtick.
    """
    if _PLAIN_ON_WINDOWS.fullmatch(text):
        return text
    if any(sign in text for sign in _IN_DOUBLE_QUOTES):
        return powershell_literal(text)
    closing = "\\" * (len(text) - len(text.rstrip("\\")))  # programs take a backslash before the quote for its escape
    return f'"{text}{closing}"'


def powershell_literal(text: str) -> str:
    """A text in PowerShell's single quotes, in which nothing is replaced."""
    return "'" + _SINGLE_QUOTES.sub(lambda match: match.group() * 2, text) + "'"


def installation(extra: str = "") -> str:
    """How to install quantkit again, or with one of its extras: it is on no package index, so from the checkout."""
    return f"in quantkit's checkout: {command('pip', 'install', f'.[{extra}]' if extra else '.')}"
