"""A model file without its weights, for questions to llama.cpp: a real header, and a hole for the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import KV, string
from quantkit.system.temporary import temporary_folder


@contextmanager
def sparse_file(metadata: Sequence[KV], tensors: Sequence[TensorInfo]) -> Iterator[Path]:
    """A temporary GGUF file without vocabulary and weights, which takes no room on the disk.

    Args:
        metadata: its metadata, without a vocabulary.
        tensors: its tensors, with offsets.

    Raises:
        OutputError: it cannot be written.
    """
    # Without any statement about a vocabulary llama.cpp loads nothing.
    header = encode_header([*metadata, string("tokenizer.ggml.model", "none")], tensors)
    size = len(header) + max((info.offset + info.type.nbytes(info.shape) for info in tensors), default=0)
    with temporary_folder() as folder:
        path = folder / "plan.gguf"
        try:
            with path.open("wb") as file:
                file.write(header)
                file.truncate(size)
        except OSError as error:
            raise OutputError(
                f"{folder}: a temporary file cannot be written ({error.strerror or error})",
                hint="set TMPDIR to a folder on a disk with free space",
            ) from None
        yield path
