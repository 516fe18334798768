"""Reads a package's weights again: the sha256 of every tensor against the manifest, and of whole files.

Several tensors at a time: hashlib lets other threads run while it hashes, and a processor hashes more slowly than most
disks read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from quantkit.files.fileio import blocks, sha256_of
from quantkit.gguf.model import GGUFModel
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_entries import LARGEST_TEXT, TensorEntry
from quantkit.package.own_files import is_own
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
    """Return the sha256 of each whole file of the folder, by name in the manifest's order.

    The check of the files names one that is missing or foreign. One that is much larger than the manifest says, as
    sparse files are for nothing, has no sum.
    """
    sizes = {}
    for name, largest in _largest(manifest):
        if is_own(folder, name) and (size := (folder / name).stat().st_size) <= largest:
            sizes[name] = size
    with ThreadPoolExecutor(threads or usable_processors()) as pool:
        sums = {}
        for name, digest in zip(sizes, pool.map(lambda n: _digest(folder / n, 0, sizes[n]), sizes), strict=True):
            sums[name] = digest
            advance(sizes[name])
    return sums


def _largest(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Each file, and the bytes up to which it is read."""
    yield from ((text.file, LARGEST_TEXT) for text in manifest.files)
    yield from ((file, gguf.size) for gguf in manifest.ggufs for file in gguf.files)
    if manifest.imatrix is not None:
        yield manifest.imatrix.file, manifest.imatrix.size
