"""Packs tensors into files of a maximum size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from quantkit.plan.values import PlannedTensor


def pack(
    tensors: Iterable[PlannedTensor], nbytes: Callable[[PlannedTensor], int], limit: int | None
) -> Iterator[list[PlannedTensor]]:
    """The tensors of each file, in order: as many as fit, by the rule of gguf-py's writer and of transformers.

    Args:
        tensors: in the order in which they are written.
        nbytes: the size of each.
        limit: maximum bytes per file; a larger tensor gets its own file. None for one file.
    """
    part: list[PlannedTensor] = []
    size = 0
    for tensor in tensors:
        own = nbytes(tensor)
        if limit is not None and part and size + own > limit:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += own
    if part:
        yield part
