"""Tensors into files no larger than asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from quantkit.plan.values import PlannedTensor


def pack(
    tensors: Iterable[PlannedTensor], nbytes: Callable[[PlannedTensor], int], limit: int | None
) -> Iterator[list[PlannedTensor]]:
    """The tensors of each file, in order: as many as fit. The rule is that of gguf-py's writer and of transformers.

    Args:
        tensors: in the order in which they are written.
        nbytes: the size of each.
        limit: bytes of a file at most; a larger tensor gets a file of its own. None for one file.
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
