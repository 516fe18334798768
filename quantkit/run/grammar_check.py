"""Checks a grammar from outside in a process of its own, because llama.cpp reads grammars by recursion.

Its parser says what is wrong on stderr only, and what it cannot stand (a stack that overflows, rules that multiply)
would end the process that has the model. The check needs no model: only names of tokens do (``<think>``), which is why
these are refused; ids (``<[128001]>``) are taken.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache

from quantkit.run.options import GrammarError

LONGEST = 2**16
"""Characters of a grammar."""

_DEEPEST = 100
_SECONDS = 10.0
_BYTES = 2**30  # of memory for its rules

_CHECK = f"""
import sys
from quantkit.ggml.llama import begin
begin()
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
try:
    import resource
except ModuleNotFoundError:  # Windows
    pass
else:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, ({_BYTES}, {_BYTES}))
with captured_log() as log:
    found = llama_cpp.llama_sampler_init_grammar(None, sys.stdin.buffer.read(), b"root")
sys.stdout.write(log.text)
sys.exit(0 if found else 3)
"""
_PARSER = re.compile(r"error parsing grammar: (.*)")


@lru_cache(maxsize=64)
def check_grammar(text: str) -> None:
    """Check a grammar (GBNF), whose answers begin at ``root``. Takes half a second, the first time.

    Raises:
        GrammarError: it is none, or too large, with the reason that llama.cpp's parser gives.
    """
    require_size(text)
    if "\0" in text:
        raise GrammarError("the grammar has a zero byte")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHECK], input=text.encode(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise GrammarError(f"llama.cpp cannot read the grammar within {_SECONDS:g} seconds") from None
    if done.returncode == 0:
        return
    said = done.stderr.decode(errors="replace")
    if done.returncode != 3:
        raise GrammarError("llama.cpp cannot read the grammar: its rules are nested too deeply, or become too many")
    if found := _PARSER.search(said):
        raise GrammarError(f"the grammar is not valid GBNF: {found[1].strip()[:300]}")
    raise GrammarError(f"the grammar cannot be used: {done.stdout.decode(errors='replace').strip()[:300]}")


def require_size(text: str) -> None:
    """Refuse a grammar that is too large to be read by recursion.

    Raises:
        GrammarError: it is.
    """
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    if len(text) > LONGEST or deepest > _DEEPEST:
        raise GrammarError(f"grammar is longer than {LONGEST} characters, or nested deeper than {_DEEPEST}")
