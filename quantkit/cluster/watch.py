"""Says that a program is over where it cannot say so itself.

When the head of its cluster has not answered for a minute, Ray ends a process in the middle of whatever it does, and
without a word of Python's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from quantkit.system.child_process import start_module

_OVER = b"over"


@contextmanager
def watched() -> Iterator[None]:
    """If this process is ended in the block, another one says so on its stderr."""
    with os.fdopen(os.dup(2), "wb") as stderr:
        child = start_module(__name__, stderr=stderr, apart=True)
    try:
        yield
    finally:
        with suppress(OSError), child:  # whoever has ended it has ended this process, too
            child.communicate(_OVER)


def main() -> None:
    """Wait for the end of the block, or of the process that began this one."""
    if sys.stdin.buffer.read() != _OVER:
        print(
            "error: the program was ended from outside, or by Ray, because the head of its cluster does not answer\n"
            "hint: run the same command again",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
