"""Buffers of a worker, kept between ranges: fresh memory costs more than the arithmetic."""

from __future__ import annotations

import threading

import torch


class Scratch(threading.local):
    """Two float32 buffers and one of bytes, shape [blocks, block] each, for one thread."""

    def __init__(self, block: int, dtype: torch.dtype) -> None:
        self.block = block
        self.floats = torch.empty(2, 0, block)
        self.levels = torch.empty(0, block, dtype=dtype)

    def fit(self, blocks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The buffers, grown to *blocks* if need be."""
        if blocks > self.levels.shape[0]:
            self.floats = torch.empty(2, blocks, self.block)
            self.levels = torch.empty(blocks, self.block, dtype=self.levels.dtype)
        return self.floats[0, :blocks], self.floats[1, :blocks], self.levels[:blocks]
