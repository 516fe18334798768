"""The factors of a LoRA file for llama.cpp: how they are stored, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quantkit.adapter.changes import LowRank
from quantkit.adapter.folder import Adapter
from quantkit.arch.base import Rule
from quantkit.checkpoint.dtypes import Floats
from quantkit.checkpoint.tensor_file import Memory, new_memory
from quantkit.engine.file_source import ReadFiles
from quantkit.engine.rows import Rows
from quantkit.gguf.header import EMBEDDING
from quantkit.plan.order import indices
from quantkit.plan.values import PlannedTensor

# Factors cached while ranges of their rows are streamed.
_KEPT = 4


@dataclass(frozen=True)
class Pair:
    """The factors of one GGUF matrix.

    Attributes:
        rule: the matrix.
        changes: the LoRA of each of the rule's sources.
        rank: the rank of all of them.
        ratios: factor of B, for each source.
    """

    rule: Rule
    changes: tuple[LowRank, ...]
    rank: int
    ratios: tuple[float, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of ``lora_a`` and ``lora_b``; for stacked matrices, the shapes are stacked too."""
        *rows, columns = self.rule.shape
        if self.rule.target == EMBEDDING:
            return {"lora_a": (*rows, self.rank), "lora_b": (columns, self.rank)}
        return {"lora_a": (*rows[:-1], self.rank, columns), "lora_b": (*rows, self.rank)}


class FactorSource:
    """Rows of the factors, in GGUF's layout. Safe from any thread."""

    def __init__(self, adapter: Adapter, pairs: Sequence[Pair]) -> None:
        self.adapter, self.pairs = adapter, {pair.rule.target: pair for pair in pairs}
        self._factor = lru_cache(maxsize=_KEPT)(self._load)

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory = new_memory) -> Rows:
        """Rows ``start:stop`` of a factor, float32."""
        return Rows(self._factor(tensor.name)[start:stop])

    def reads(self) -> ReadFiles:
        """The adapter's files."""
        return self.adapter.reads()

    def measures(self, tensor: PlannedTensor) -> bool:
        """No."""
        return False

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> None:
        """Do nothing: reading a factor already refuses values that are not finite."""

    def _load(self, name: str) -> Floats:
        target, _, factor = name.rpartition(".")
        pair = self.pairs[target]
        return np.concatenate([self._part(pair, index, factor) for index in range(len(pair.changes))])

    def _part(self, pair: Pair, index: int, factor: str) -> Floats:
        rule, ratio = pair.rule, pair.ratios[index]
        left, right = self.adapter.factors(pair.changes[index])  # [out, r], [r, in]
        if rule.compute is not None:  # it multiplies rows: of matrices it does nothing else
            left = rule.compute(left, 0)
        if rule.target == EMBEDDING:  # llama.cpp looks up rows of A [vocabulary, r]; B is [hidden, r]
            return left if factor == "lora_a" else right.T * np.float32(ratio)
        if factor == "lora_a":
            return right[:, indices(rule.column_order)] if rule.column_order else right
        if rule.row_order:
            left = left[indices(rule.row_order)]
        return (left if rule.arrange is None else rule.arrange(left)) * np.float32(ratio)
