"""Reads a package's weights again: the sha256 of every tensor against the manifest, and of whole files.

Several tensors at a time: hashlib lets other threads run while it hashes, and a processor hashes more slowly than most
disks read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from quantkit.files.fileio import blocks, sha256_of
from quantkit.gguf.model import GGUFModel
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_entries import TensorEntry
from quantkit.system.processors import usable_processors


def changed_tensors(
    model: GGUFModel,
    listed: Mapping[str, TensorEntry],
    *,
    threads: int | None = None,
    advance: Callable[[int], None],
) -> list[str]:
    """Return the tensors whose bytes are not those of the manifest, in the order of the file.

    Args:
        model: headers of the model's files.
        listed: the manifest's entries, by tensor; a tensor without one is not read.
        threads: how many tensors to read at a time; None for one per processor.
        advance: called with the number of bytes read.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[str, str] = {}
    with ThreadPoolExecutor(threads or usable_processors()) as pool:
        tasks = {}
        for file, header in zip(model.files, model.headers, strict=True):
            for name, info in header.tensors.items():
                if name in listed:
                    size = info.type.nbytes(info.shape)
                    tasks[pool.submit(_digest, file, header.data_offset + info.offset, size)] = (name, size)
        try:
            for task in as_completed(tasks):
                name, size = tasks[task]
                found[name] = task.result()
                advance(size)
        except BaseException:  # Ctrl-C too: what waits is not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [name for name in model.header.tensors if name in found and found[name] != listed[name].sha256]


def _digest(file: Path, start: int, size: int) -> str:
    return sha256_of(blocks(file, start, size))


def file_sums(
    folder: Path, manifest: Manifest, *, threads: int | None = None, advance: Callable[[int], None]
) -> dict[str, str]:
    """Return the sha256 of each whole file that is there, by name in the manifest's order."""
    sizes = {}
    for name in manifest.file_names:
        with suppress(OSError):  # the check of the files names one that is missing
            sizes[name] = (folder / name).stat().st_size
    with ThreadPoolExecutor(threads or usable_processors()) as pool:
        sums = {}
        for name, digest in zip(sizes, pool.map(lambda n: _digest(folder / n, 0, sizes[n]), sizes), strict=True):
            sums[name] = digest
            advance(sizes[name])
    return sums
