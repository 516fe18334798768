"""Recognises errors that mean that there is not enough memory, however a library says it."""

from __future__ import annotations

import errno

HINT = (
    "close other programs, raise the limit (ulimit -v, or the container's memory), or use fewer workers with --threads"
)
_SAID = (
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "out of memory",
    "unable to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came of, says that memory is missing.

    A library for which there is no address space raises ImportError, a thread without a stack RuntimeError.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return False
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return True
        text = str(seen).lower()
        if isinstance(seen, ImportError | RuntimeError | OSError | SystemError) and any(said in text for said in _SAID):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
