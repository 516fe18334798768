"""The computation: llama.cpp evaluates the text chunk by chunk, in llama-imatrix's batches.

Several chunks go through the model together, as sequences of their own, because that is faster. How many, and how
llama.cpp cuts them into pieces, changes the last bits of what it computes, so both are as llama-imatrix has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantkit.calibrate.chunks import Chunks
from quantkit.calibrate.collector import Collector
from quantkit.errors import QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.run.inference import (
    LoadedModel,
    Token,
    context_params,
    decode,
    forget,
    loaded_model,
    opened_context,
)
from quantkit.run.load_log import count_offloaded

_ABORTED = 2
_HINT = "pass a smaller --ctx, or put fewer layers on the GPU with --n-gpu-layers"


class Session:
    """A loaded model that evaluates chunks.

    Attributes:
        model: what is loaded.
        offloaded: layers on a GPU.
    """

    def __init__(self, model: LoadedModel, context: Any) -> None:
        """Wrap what is loaded; callers use :func:`open_session`."""
        self._context = context
        self.model = model
        self.offloaded = count_offloaded(model.log)

    def check(self, chunks: Chunks) -> None:
        """Refuse tokens that are not the model's.

        Raises:
            QuantkitError: the first of them.
        """
        if max(chunks.ids) >= self.model.vocabulary:
            raise QuantkitError(
                f"{self.model.path}: token {max(chunks.ids)} is not in its vocabulary of {self.model.vocabulary}",
                hint="make the tokens with this file",
            )

    def evaluate(self, chunks: Chunks, first: int) -> bool:
        """Evaluate the chunks from number *first* that go together.

        Returns:
            False if it was stopped before its end.

        Raises:
            QuantkitError: llama.cpp failed.
        """
        forget(self._context)
        numbers = range(first, chunks.after(first))
        for start in range(0, chunks.context, chunks.batch):
            status, reason = decode(self._context, list(self._tokens(chunks, numbers, start)))
            llama_cpp.llama_synchronize(self._context)
            if status == _ABORTED:
                return False
            if status != 0:
                raise QuantkitError(
                    f"llama.cpp cannot evaluate chunk {first + 1} (status {status}): {reason}", hint=_HINT
                )
        return True

    def _tokens(self, chunks: Chunks, numbers: range, start: int) -> Iterator[Token]:
        """A batch of each chunk's tokens from position *start*, the chunks one after another."""
        length = min(chunks.context - start, chunks.batch)
        for sequence, number in enumerate(numbers):
            begin = number * chunks.context + start
            ids = list(chunks.ids[begin : begin + length])
            if start == 0 and self.model.bos is not None:
                ids[0] = self.model.bos
            for place, token in enumerate(ids, start):
                yield Token(token, place, sequence, True)


@contextmanager
def open_session(
    gguf: Path,
    chunks: Chunks,
    collector: Collector,
    *,
    threads: int | None,
    n_gpu_layers: int,
    stopped: Callable[[], bool],
) -> Iterator[Session]:
    """Load a model for evaluating *chunks*, whose callback is the collector's.

    Args:
        gguf: the model, the first part of a split one.
        chunks: what it will evaluate.
        collector: sees every product.
        threads: CPU threads, None for the processors that are free.
        n_gpu_layers: layers to put on a GPU, -1 for all; no effect in a build without GPU support.
        stopped: asked between operations; true ends an evaluation.

    Raises:
        GGUFError: not a valid GGUF model, or llama.cpp rejects it.
        QuantkitError: not enough memory for the context.
        KeyboardInterrupt: it was stopped while it was loaded.
    """
    abort = llama_cpp.ggml_abort_callback(lambda data: stopped() or collector.error is not None)
    params = context_params(chunks.together * chunks.context, threads)
    params.n_batch, params.n_seq_max = chunks.batch, chunks.together
    params.n_ubatch = llama_cpp.llama_context_default_params().n_ubatch
    params.swa_full = False
    params.cb_eval = collector.callback
    params.abort_callback = abort
    with (
        loaded_model(gguf, n_gpu_layers=n_gpu_layers, stopped=stopped) as model,
        opened_context(model, params, _HINT) as (context, _),
    ):
        yield Session(model, context)
