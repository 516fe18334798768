"""The computation: llama.cpp evaluates the text chunk by chunk, in llama-imatrix's batches.

Several chunks go through the model together, as sequences of their own, because that is faster. How many, and how
llama.cpp cuts them into pieces, changes the last bits of what it computes, so both are as llama-imatrix has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.calibrate.collector import Collector
from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.gguf.model import read_whole_model
from quantkit.run.load_log import count_offloaded, failure_reason
from quantkit.system.processors import MOST_THREADS, usable_processors

_BATCH = 2048  # tokens that llama-imatrix evaluates together
_ABORTED = 2


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
        """Chunks that are evaluated together."""
        return max(1, _BATCH // self.context)

    @property
    def batch(self) -> int:
        """Tokens of a batch at most."""
        return min(_BATCH, self.together * self.context)


class Session:
    """A loaded model that evaluates chunks.

    Attributes:
        offloaded: layers on a GPU.
        trained: the context that the model was trained on.
    """

    def __init__(self, model: Any, context: Any, offloaded: int) -> None:
        """Wrap what is loaded; callers use :func:`open_session`."""
        self._context = context
        self.offloaded = offloaded
        self.trained = int(llama_cpp.llama_model_n_ctx_train(model))
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        adds = llama_cpp.llama_vocab_get_add_bos(vocabulary)
        self._bos = int(llama_cpp.llama_vocab_bos(vocabulary)) if adds else None

    def evaluate(self, chunks: Chunks, first: int) -> bool:
        """Evaluate the chunks from number *first* that go together.

        Returns:
            False if it was stopped before its end.

        Raises:
            QuantkitError: llama.cpp failed.
        """
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        numbers = range(first, min(first + chunks.together, chunks.count))
        for start in range(0, chunks.context, chunks.batch):
            length = min(chunks.context - start, chunks.batch)
            with captured_log() as log, _batch(length * len(numbers)) as batch:
                place = 0
                for sequence, number in enumerate(numbers):
                    begin = number * chunks.context + start
                    ids = list(chunks.ids[begin : begin + length])
                    if start == 0 and self._bos is not None:
                        ids[0] = self._bos
                    for position, token in enumerate(ids, start):
                        batch.token[place], batch.pos[place], batch.logits[place] = token, position, 1
                        batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
                        place += 1
                batch.n_tokens = place
                status = llama_cpp.llama_decode(self._context, batch)
                llama_cpp.llama_synchronize(self._context)
            if status == _ABORTED:
                return False
            if status != 0:
                raise QuantkitError(
                    f"llama.cpp cannot evaluate chunk {first + 1} (status {status}): {failure_reason(log.text)}",
                    hint="pass a smaller --ctx, or put fewer layers on the GPU with --n-gpu-layers",
                )
        return True


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
        threads: CPU threads, None for the processors this process may use.
        n_gpu_layers: layers to put on a GPU, -1 for all; no effect in a build without GPU support.
        stopped: asked between operations; true ends an evaluation.

    Raises:
        GGUFError: not a valid GGUF model, or llama.cpp rejects it.
        QuantkitError: not enough memory for the context.
    """
    read_whole_model(gguf)
    with ExitStack() as stack:
        with captured_log() as log:
            llama_cpp.llama_backend_init()
            model_params = llama_cpp.llama_model_default_params()
            model_params.n_gpu_layers = n_gpu_layers
            go_on = llama_cpp.llama_progress_callback(lambda progress, data: not stopped())
            model_params.progress_callback = go_on
            model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), model_params)
        if model is None:
            if stopped():
                raise KeyboardInterrupt
            raise GGUFError(f"{gguf}: llama.cpp cannot load it: {failure_reason(log.text)}")
        stack.callback(llama_cpp.llama_model_free, model)
        offloaded = count_offloaded(log.text)
        abort = llama_cpp.ggml_abort_callback(lambda data: stopped() or collector.error is not None)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = chunks.together * chunks.context
        params.n_batch, params.n_seq_max = chunks.batch, chunks.together
        params.n_threads = params.n_threads_batch = threads or min(usable_processors(), MOST_THREADS)
        params.swa_full = False
        params.cb_eval = collector.callback
        params.abort_callback = abort
        with captured_log() as log:
            context = llama_cpp.llama_init_from_model(model, params)
        if context is None:
            raise QuantkitError(
                f"{gguf}: not enough memory for {chunks.together} chunks of {chunks.context} tokens: "
                f"{failure_reason(log.text)}",
                hint="pass a smaller --ctx, or put fewer layers on the GPU with --n-gpu-layers",
            )
        stack.callback(llama_cpp.llama_free, context)
        yield Session(model, context, offloaded)


@contextmanager
def _batch(tokens: int) -> Iterator[Any]:
    batch = llama_cpp.llama_batch_init(tokens, 0, 1)
    try:
        yield batch
    finally:
        llama_cpp.llama_batch_free(batch)
