"""Base tensor + its adapters -> merged float32 rows, on the device given.

Everything is a range of rows, so that a 128k-row embedding costs no more memory than a small tensor. The sum is
float32 whatever the checkpoint is stored in, and is rounded once, later, to the type of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from quantkit.adapter import Adapter, Add, LowRank, Replace
from quantkit.checkpoint import Checkpoint
from quantkit.errors import CheckpointError
from quantkit.plan import PlannedTensor

# Factors kept at hand: consecutive chunks belong to one tensor, and a few tensors are in work at a time.
_FACTORS_KEPT = 16


def add_low_rank(rows: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """``rows + scale * left @ right`` in float32, in place (Hu et al. 2021, arXiv:2106.09685, equation 3).

    Args:
        rows: shape [n, in].
        left: shape [n, r].
        right: shape [r, in].
        scale: the adapter's scaling.
    """
    return rows.addmm_(left, right, alpha=scale)


class Merger:
    """Rows of the merged model.

    Adapters are applied in the order given. Safe from any thread.
    """

    def __init__(self, checkpoint: Checkpoint, adapters: Sequence[Adapter], device: torch.device) -> None:
        self.checkpoint, self.adapters, self.device = checkpoint, tuple(adapters), device
        self._factor = lru_cache(maxsize=_FACTORS_KEPT)(self._load_factor)

    def rows(self, tensor: PlannedTensor, start: int, stop: int) -> torch.Tensor:
        """Rows ``start:stop`` of one segment: float32, merged, in GGUF's layout, on the device."""
        if tensor.values is not None:
            return tensor.values[start:stop].to(self.device)
        merged = self._merged(*_source_rows(tensor, start, stop))
        return merged if tensor.arrange is None else tensor.arrange(merged)

    def _merged(self, name: str, start: int, stop: int) -> torch.Tensor:
        changes = [(adapter, change) for adapter in self.adapters for change in adapter.changes.get(name, ())]
        replacements = [i for i, (_, change) in enumerate(changes) if isinstance(change, Replace)]
        if replacements:  # what comes before the last replacement is overwritten by it
            changes = changes[replacements[-1] :]
            adapter, change = changes.pop(0)
            assert isinstance(change, Replace)
            rows = adapter.read(change.key, start, stop).to(self.device)
        else:
            rows = self.checkpoint.read(name, start, stop).to(self.device).float()
        for adapter, change in changes:
            if isinstance(change, LowRank):
                left, right = self._factor(adapter, change)
                add_low_rank(rows, left[start:stop], right, change.scale)
            elif isinstance(change, Add):
                rows.add_(adapter.read(change.key, start, stop).to(self.device), alpha=change.scale)
        return rows

    def _load_factor(self, adapter: Adapter, change: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = adapter.read(change.rows), adapter.read(change.cols)
        if change.transposed:
            left, right = left.T.contiguous(), right.T.contiguous()
        return left.to(self.device), right.to(self.device)

    def blame(self, tensor: PlannedTensor, start: int, stop: int) -> CheckpointError | None:
        """The error for a base tensor that is not finite in these rows; None when the base is sound."""
        if tensor.values is not None:
            return None
        source, first, last = _source_rows(tensor, start, stop)
        if torch.isfinite(self.checkpoint.read(source, first, last).float()).all():
            return None
        return CheckpointError(
            f"{self.checkpoint.tensors[source].file}: tensor {source!r} has NaN or infinite values",
            hint="download the file again, or use an earlier checkpoint",
        )


def _source_rows(tensor: PlannedTensor, start: int, stop: int) -> tuple[str, int, int]:
    """Where rows of one segment of a planned tensor are in the checkpoint: tensor, first row, row behind the last."""
    index, row = divmod(start, tensor.rows // len(tensor.parts))
    part = tensor.parts[index]
    return part.source, part.start + row, part.start + row + stop - start
