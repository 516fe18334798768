"""How a text is cut for llama.cpp: into chunks, and those into groups that go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BATCH = 2048  # tokens that llama-imatrix evaluates together


@dataclass(frozen=True)
class Chunks:
    """A text cut into chunks.

    Attributes:
        ids: at least *count* x *context* token ids.
        context: tokens of a chunk.
        count: chunks to evaluate.
    """

    ids: Sequence[int]
    context: int
    count: int

    @property
    def together(self) -> int:
        """Chunks that are evaluated together: a group. How many changes the last bits of what llama.cpp computes."""
        return max(1, _BATCH // self.context)

    @property
    def batch(self) -> int:
        """Tokens of a batch at most."""
        return min(_BATCH, self.together * self.context)

    def after(self, first: int) -> int:
        """Chunks that are done after the group that begins with chunk *first*."""
        return min(first + self.together, self.count)
