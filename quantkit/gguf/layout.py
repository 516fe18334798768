"""Are there bytes in a GGUF file that belong to no tensor? That tensors follow each other, `read_header` checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantkit.files.fileio import read_into
from quantkit.gguf.header import Header, align


def layout_faults(path: Path, header: Header) -> Iterator[str]:
    """What is behind tensors where nothing should be, in words.

    Padding up to the alignment is allowed, also behind the last tensor, if it is zero.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size, end, last = path.stat().st_size - header.data_offset, 0, "the header"
        for info in header.tensors.values():
            end, last = info.offset + info.type.nbytes(info.shape), info.name
            padding = min(align(end, header.alignment), size) - end
            if _is_used(file.fileno(), header.data_offset + end, padding):
                yield f"the padding behind {last} is not zero"
        if (more := size - align(end, header.alignment)) > 0:
            yield f"{more} bytes behind {last} belong to no tensor"


def _is_used(fd: int, start: int, size: int) -> bool:
    data = bytearray(max(size, 0))
    read_into(fd, memoryview(data), start)
    return any(data)
