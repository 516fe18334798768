"""Compiled functions on the disk, so that a process compiles nothing that an earlier one has compiled.

Numba's own cache compares what a function's closure holds by pickling it. A compiled function has another pickle in
every process, so that one built of others was compiled again each time; here it is compared by what it is made of.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

from quantkit.kernels.cache import cache_folder, keep, read_kept

# Numba's setting is the process's: a thread that changes it must be alone.
_setting = threading.Lock()
_SOURCES = Path(__file__).parent
_PLAIN = (bool, int, float, str, np.generic, type(None))


class _Files(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
    """A file of its own for each compiled form.

    Numba numbers them by an index: two threads or processes that save at once take the same number, and the index may
    then name the code of another function, which computes something else.
    """

    def _place(self, key: Any) -> Path:
        digest = hashlib.sha256(repr((self._version, self._source_stamp, key)).encode()).hexdigest()[:32]
        return Path(self._cache_path, f"{self._index_name.removesuffix('.nbi')}.{digest}.nbc")

    def save(self, key: Any, data: Any) -> None:
        keep(self._place(key), self._dump((key, data)))

    def load(self, key: Any) -> Any:
        content = read_kept(self._place(key))
        if content is None:
            return None
        own, data = pickle.loads(content)
        return data if own == key else None


class _Cache(FunctionCache):  # type: ignore[misc]
    """The compiled forms of one function, in *folder* if that is the folder of the sources it is among."""

    def __init__(self, py_func: Any, folder: Path) -> None:
        super().__init__(py_func)
        stamp = self._impl.locator.get_source_stamp()
        if Path(py_func.__code__.co_filename).parent == _SOURCES:
            # Its name says what they are: where they lie and since when does not matter, as after an installation.
            self._cache_path = self._impl.locator._cache_path = str(folder)
            stamp = None
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return signature, codegen.magic_tuple(), describe(self._py_func)


def keep_on_disk(dispatcher: Any) -> None:
    """Let later processes load what this function is compiled to, if the cache is writable."""
    with _setting:
        before = numba.config.CACHE_DIR
        folder = (Path(before) if before else cache_folder("numba")) / _sources()
        if not _writable(folder):
            return
        numba.config.CACHE_DIR = str(folder)  # the cache reads it at once; other libraries keep theirs
        try:
            dispatcher._cache = _Cache(dispatcher.py_func, folder)
        finally:
            numba.config.CACHE_DIR = before


def name_by_content(function: Any) -> None:
    """Add a digest of what a function is made of to its name, before numba compiles it.

    Numba's symbols have a function's name and a number that each process counts from 1. Two functions of one name, kept
    by two processes, may have the same symbol; a process that loads both would call one of them for the other.
    """
    digest = hashlib.sha256(repr(describe(function)).encode()).hexdigest()[:16]
    function.__qualname__ = f"{function.__qualname__}_{digest}"


def describe(value: Any) -> Any:
    """What a function is made of: its name and what its closure holds, down to numbers and text.

    Its code need not be compared: the folder has a name of its own for every state of the sources.

    Raises:
        TypeError: a closure holds something else.
    """
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, tuple):
        return tuple(map(describe, value))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    function = getattr(value, "py_func", None) or getattr(value, "_defn", value)  # compiled, or an intrinsic
    if not hasattr(function, "__code__"):
        raise TypeError(f"a compiled function's closure holds {value!r}")
    cells = tuple(describe(cell.cell_contents) for cell in function.__closure__ or ())
    return function.__module__, function.__qualname__, cells


@cache
def _sources() -> str:
    """A name for the compiled code of just these sources."""
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
