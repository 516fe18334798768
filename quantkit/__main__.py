"""The ``quantkit`` command, also as ``python -m quantkit``.

Nothing is imported before :func:`entry` runs, so that Ctrl-C in the first tenth of a second ends without a traceback.
"""

from __future__ import annotations

import os
from typing import NoReturn


def entry() -> NoReturn:
    """Run :func:`quantkit.cli.main.entry`."""
    try:
        from quantkit.cli.main import entry
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        os._exit(130)
    except MemoryError:
        os.write(2, b"error: not enough memory to start\nhint: close other programs, or raise the limit: ulimit -v\n")
        os._exit(1)
    entry()


if __name__ == "__main__":
    entry()
