"""The process that fuzzes one reader with atheris; ``scripts/fuzz`` starts it, and again after a crash.

usage: python -m tests.support.fuzz.child READER FINDINGS [OPTION OF LIBFUZZER]... [FOLDER]...
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris


def main() -> None:
    name, findings, *options = sys.argv[1:]
    # Around all of it: some of quantkit is imported when it is first used.
    with atheris.instrument_imports(include=["quantkit"]):
        from tests.support.fuzz.loop import fuzz

        fuzz(name, Path(findings), options)


if __name__ == "__main__":
    main()
