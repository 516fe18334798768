"""Work that is done beside other work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Result = TypeVar("_Result")


@contextmanager
def beside(work: Callable[[], _Result]) -> Iterator[Future[_Result]]:
    """Do *work* in a thread while the block runs. When the block is left, it has ended.

    An error of *work* is raised before one of the block, as if *work* had been done first.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            yield future
        except Exception:
            future.result()
            raise
        future.result()
