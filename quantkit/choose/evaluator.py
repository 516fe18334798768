"""A model's answers against a reference's, from inside a process that loads libllama.

Log-probabilities are kept in float32, not in the 16 bits of an evaluation: what one group of tensors costs can be
smaller than their rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.run.inference import Token, context_params, decode, forget, loaded_model, opened_context

# Positions whose probabilities are in memory at a time.
_TOGETHER = 64
_HINT = "close other programs and try again"


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logarithm of the softmax of each row; float32, shape [n, vocabulary]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, dtype=np.float64, keepdims=True)
    found: npt.NDArray[np.float32] = shifted - np.log(sums).astype(np.float32)
    return found


def divergence(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The KL divergence of each row from the reference's, both log-probabilities; float64, shape [n], in nats."""
    found: npt.NDArray[np.float64] = np.sum(np.exp(reference) * (reference - other), axis=1, dtype=np.float64)
    return found


class Evaluator:
    """The reference's log-probabilities after some tokens.

    Attributes:
        sequences: token ids, each at most a context long.
        skip: positions at the beginning of each that are not looked at.
        path: the file of the log-probabilities, float32, which the reference's evaluation makes.
        threads, gpu_layers: how to compute.
    """

    def __init__(self, sequences: list[list[int]], skip: int, path: Path, threads: int | None, gpu_layers: int) -> None:
        self.sequences, self.skip, self.path = sequences, skip, path
        self.threads, self.gpu_layers = threads, gpu_layers

    def reference(self, gguf: Path) -> None:
        """Keep a file's log-probabilities."""
        with self.path.open("wb") as file:
            for logits in self._logits(gguf):
                file.write(log_probabilities(logits).tobytes())

    def divergence(self, gguf: Path) -> float:
        """The mean KL divergence of a file from the reference, in nats."""
        total, positions = 0.0, 0
        with self.path.open("rb") as file:
            for logits in self._logits(gguf):
                kept = np.frombuffer(file.read(logits.nbytes), dtype=np.float32).reshape(logits.shape)
                total += float(divergence(kept, log_probabilities(logits)).sum())
                positions += len(logits)
        return total / positions

    def _logits(self, gguf: Path) -> Iterator[npt.NDArray[np.float32]]:
        """The logits of all positions that are looked at, a few at a time."""
        longest = max(map(len, self.sequences))
        with (
            loaded_model(gguf, n_gpu_layers=self.gpu_layers) as model,
            opened_context(model, context_params(longest, self.threads), _HINT) as (context, _),
        ):
            for ids in self.sequences:
                self._evaluate(context, gguf, ids)
                count = len(ids) - self.skip
                found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(count, model.vocabulary))
                for start in range(0, count, _TOGETHER):
                    yield found[start : start + _TOGETHER].copy()

    def _evaluate(self, context: Any, gguf: Path, ids: list[int]) -> None:
        forget(context)
        status, reason = decode(
            context, [Token(token, place, 0, place >= self.skip) for place, token in enumerate(ids)]
        )
        if status != 0:
            raise QuantkitError(f"{gguf}: llama.cpp cannot evaluate it (status {status}): {reason}", hint=_HINT)
