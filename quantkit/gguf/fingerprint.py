"""Tells one model from another without reading all of it: its header, and a piece of each tensor."""

from __future__ import annotations

import hashlib
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.gguf.model import GGUFModel, read_model

_PIECE = 1 << 16


def fingerprint(model: GGUFModel) -> str:
    """A sha256 over the header, and 64 KiB in the middle of each tensor, of a GGUF model's files.

    Models that differ by an adapter, a type or a vocabulary differ in it; those that differ in single weights may not.
    """
    digest = hashlib.sha256()
    for path, header in zip(model.files, model.headers, strict=True):
        with path.open("rb") as file:
            digest.update(file.read(header.data_offset))
            for info in header.tensors.values():
                size = info.type.nbytes(info.shape)
                file.seek(header.data_offset + info.offset + max(0, size - _PIECE) // 2)
                digest.update(file.read(min(size, _PIECE)))
    return digest.hexdigest()


def check_fingerprint(path: Path, wanted: str) -> None:
    """Refuse another model than the one where some work was begun.

    Args:
        path: the model, the first part of a split one.
        wanted: :func:`fingerprint` of the model there.

    Raises:
        GGUFError: it is not there, or broken.
        QuantkitError: it is another one.
    """
    if fingerprint(read_model(path)) != wanted:
        raise QuantkitError(
            f"{path}: another file than where the work was begun",
            hint="give all nodes the same files, best in a shared file system",
        )
