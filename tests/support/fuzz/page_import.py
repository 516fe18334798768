"""The page's own reader of saved conversations, out of its JavaScript, in QuickJS: no browser, no process."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import quickjs

from quantkit.serve import page

_STATIC = Path(page.__file__).with_name("static")
_MODULES = ("strings.js", "words.js", "transcript.js")
# What a module takes from the others is there already: all of them are one script.
_BETWEEN = re.compile(r"^import .*?;$|^export (?=const|function|async)", re.MULTILINE)
_READ = """
globalThis.readSaved = (quoted) => {
  try {
    const read = fromFile(JSON.parse(quoted), "x");
    return JSON.stringify({ read, written: toFile(read, "m") });
  } catch (error) {
    return JSON.stringify({ refused: error.message, own: error.constructor === Error });
  }
};
"""


@cache
def _reader() -> Any:
    context = quickjs.Context()
    script = "\n".join(_BETWEEN.sub("", (_STATIC / name).read_text(encoding="utf-8")) for name in _MODULES)
    context.eval(f'globalThis.navigator = {{ languages: ["en"] }};\n{script}\n{_READ}')
    return context.get("readSaved")


def read_saved(text: str) -> dict[str, Any]:
    """What the page makes of a file's text: ``read`` and ``written``; or ``refused``, in its ``own`` words."""
    answer: dict[str, Any] = json.loads(_reader()(json.dumps(text)))
    return answer
