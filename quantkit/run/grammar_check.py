"""Checks a grammar from outside in a process of its own: llama.cpp can neither be trusted with one nor be interrupted.

Its parser says what is wrong on stderr only; rules that are nested deeply overflow its stack; and where a grammar is
ambiguous, it follows all readings at once, which may double with each character. So a process with limits reads the
grammar and follows it for some tokens. That finds what is ambiguous at once, not what becomes so far into an answer.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from quantkit.run.options import GrammarError

LONGEST = 2**16
"""Characters of a grammar."""

_DEEPEST = 100
# The process limits itself in seconds of the processor (not on Windows); on a busy machine they take tens of the clock.
_SECONDS = 30.0 if sys.platform == "win32" else 120.0
_REFUSED, _KILLED = 3, -9
_PARSER = re.compile(r"error parsing grammar: (.*)")


@lru_cache(maxsize=64)
def check_grammar(text: str, model: Path) -> None:
    """Check a grammar (GBNF), whose answers begin at ``root``. Takes about a second, the first time.

    Args:
        text: the grammar.
        model: the GGUF file whose vocabulary it is for.

    Raises:
        GrammarError: it is none, with the reason that llama.cpp's parser gives, or too large or too ambiguous.
    """
    require_size(text)
    if "\0" in text:
        raise GrammarError("the grammar has a zero byte")
    line = [sys.executable, "-m", "quantkit.run.grammar_walk", str(model)]
    try:
        done = _run(line, text)
        if done.returncode == _KILLED:  # from outside, such as by a system that is short of memory
            done = _run(line, text)
    except subprocess.TimeoutExpired:
        raise GrammarError(f"llama.cpp cannot follow the grammar within {_SECONDS:g} seconds") from None
    if done.returncode == 0:
        return
    if done.returncode != _REFUSED:
        raise GrammarError("llama.cpp cannot follow the grammar: it is too ambiguous, or its rules are too many")
    if found := _PARSER.search(done.stderr.decode(errors="replace")):
        raise GrammarError(f"the grammar is not valid GBNF: {found[1].strip()[:300]}")
    raise GrammarError(f"the grammar cannot be used: {done.stdout.decode(errors='replace').strip()[:300]}")


def _run(line: list[str], text: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(line, input=text.encode(), capture_output=True, timeout=_SECONDS, check=False)


def require_size(text: str) -> None:
    """Refuse a grammar that is too large to be read by recursion.

    Raises:
        GrammarError: it is.
    """
    depth = deepest = 0
    for character in text[: LONGEST + 1]:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    if len(text) > LONGEST or deepest > _DEEPEST:
        raise GrammarError(f"grammar is longer than {LONGEST} characters, or nested deeper than {_DEEPEST}")
