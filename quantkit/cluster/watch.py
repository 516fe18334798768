"""Says that a program is over where it cannot say so itself, and removes what is then left of its cluster.

When the head of its cluster has not answered for a minute, Ray ends a process in the middle of whatever it does, and
without a word of Python's. While a process connects, Ray holds Python's lock: no thread and no signal reaches it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from quantkit.system.child_process import start_module
from quantkit.system.temporary import remove_for

START = 120.0
"""Seconds that a cluster has to start, or to let this process in; Ray takes ten of them on a busy machine."""

_STARTED, _OVER = b"s", b"o"


@contextmanager
def watched(folder: Path | None = None) -> Iterator[Callable[[], None]]:
    """If this process is ended in the block, another one says so on its stderr, and clears up.

    Gives what is to be called when the cluster has started. If it is not called within :data:`START` seconds, this
    process exits with 1.

    Args:
        folder: with all files of a cluster that ends with this process, see
            :func:`quantkit.system.temporary.temporary_folder`. Processes of the cluster that go on are ended.
    """
    with os.fdopen(os.dup(2), "wb") as stderr:
        words = [f"{START:.0f}", f"{monotonic() + START}", *([] if folder is None else [str(folder)])]
        child = start_module(__name__, words, stderr=stderr, apart=True)
    assert child.stdin is not None
    told = child.stdin

    def started() -> None:
        faulthandler.cancel_dump_traceback_later()
        with suppress(OSError):  # as below
            told.write(_STARTED)
            told.flush()

    try:
        with open(os.devnull, "wb") as nowhere:
            # Python's only clock that needs no lock of Python's.
            faulthandler.dump_traceback_later(START, exit=True, file=nowhere)
            try:
                yield started
            finally:
                faulthandler.cancel_dump_traceback_later()
    finally:
        with suppress(OSError), child:  # whoever has ended it has ended this process, too
            child.communicate(_OVER)


def main() -> None:
    """Wait for the end of the block, or of the process that began this one."""
    seconds, deadline, *folders = sys.argv[1:]
    heard = sys.stdin.buffer.read()
    if heard.endswith(_OVER):
        return
    if not heard and monotonic() > float(deadline):
        said = f"the Ray cluster did not start, or let this program in, within {seconds} s"
    else:
        said = "the program was ended from outside, or by Ray, because the head of its cluster does not answer"
    print(f"error: {said}\nhint: run the same command again", file=sys.stderr, flush=True)
    for folder in folders:
        remove_for(Path(folder))


if __name__ == "__main__":
    main()
