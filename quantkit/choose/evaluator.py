"""A model's answers against a reference's, from inside a process that loads libllama."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.run.load_log import failure_reason
from quantkit.system.processors import MOST_THREADS, usable_processors

# Positions whose probabilities are in memory at a time.
_TOGETHER = 64


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
        self.threads = threads or min(usable_processors(), MOST_THREADS)
        self.gpu_layers = gpu_layers

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
        with ExitStack() as stack, captured_log() as log:
            params = llama_cpp.llama_model_default_params()
            params.n_gpu_layers = self.gpu_layers
            model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), params)
            if model is None:
                raise GGUFError(f"{gguf}: llama.cpp cannot load it: {failure_reason(log.text)}")
            stack.callback(llama_cpp.llama_model_free, model)
            context_params = llama_cpp.llama_context_default_params()
            longest = max(map(len, self.sequences))
            context_params.n_ctx = context_params.n_batch = context_params.n_ubatch = longest
            context_params.n_threads = context_params.n_threads_batch = self.threads
            context = llama_cpp.llama_init_from_model(model, context_params)
            if context is None:
                raise QuantkitError(
                    f"{gguf}: not enough memory to evaluate it: {failure_reason(log.text)}",
                    hint="close other programs and try again",
                )
            stack.callback(llama_cpp.llama_free, context)
            size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
            for ids in self.sequences:
                self._evaluate(context, gguf, ids)
                count = len(ids) - self.skip
                found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(count, size))
                for start in range(0, count, _TOGETHER):
                    yield found[start : start + _TOGETHER].copy()

    def _evaluate(self, context: Any, gguf: Path, ids: list[int]) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place], batch.pos[place], batch.logits[place] = token, place, place >= self.skip
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            status = llama_cpp.llama_decode(context, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise QuantkitError(f"{gguf}: llama.cpp cannot evaluate it (status {status})")
