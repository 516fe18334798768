"""One download of a model at a time on a machine: whoever comes second finds it in the cache."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quantkit.hub.adapter_source import AdapterLike, adapter_sources
from quantkit.hub.source import HubId, Source


@contextmanager
def one_download(model: Source, adapters: Sequence[AdapterLike]) -> Iterator[None]:
    """Hold the lock of each hub id among a model and its adapters. Needs the library filelock, which Ray brings.

    A lock is a file in the temporary folder of the machine; it is released when its process ends, however that ends.
    """
    ids = {str(one.source) for one in adapter_sources([model, *adapters]) if isinstance(one.source, HubId)}
    with ExitStack() as held:
        if ids:
            from filelock import FileLock

            for name in sorted(ids):  # in one order, so that two never wait for each other
                key = hashlib.sha256(name.encode()).hexdigest()[:16]
                held.enter_context(FileLock(Path(tempfile.gettempdir()) / f"quantkit-hub-{key}.lock", mode=0o666))
        yield
