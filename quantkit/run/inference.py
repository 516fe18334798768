"""A model in llama.cpp for what is no conversation: its logits or activations for given tokens.

Proofs, evaluations, importance matrices and choices of types each open a context of their own kind; how a model is
loaded, how tokens are handed over and what is said when that fails is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.gguf.model import read_whole_model
from quantkit.run.load_log import failure_reason
from quantkit.system.processors import llama_threads
from quantkit.system.shell import command


class Token(NamedTuple):
    """A token to evaluate.

    Attributes:
        id: in the model's vocabulary.
        place: its position in its sequence, from 0.
        sequence: number of the sequence; no token sees another sequence's.
        wanted: whether the logits after it are computed.
    """

    id: int
    place: int
    sequence: int
    wanted: bool


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        path: its file.
        handle: llama.cpp's.
        log: what llama.cpp wrote when it loaded it.
        vocabulary: tokens of the vocabulary.
        trained_context: tokens of the context that it was trained with.
        bos: the token that begins a text, None if the file does not ask for one.
    """

    path: Path
    handle: Any
    log: str
    vocabulary: int
    trained_context: int
    bos: int | None


@contextmanager
def loaded_model(
    path: Path,
    *,
    n_gpu_layers: int,
    stopped: Callable[[], bool] = lambda: False,
    repack: bool = True,
    mapped: bool = True,
) -> Iterator[LoadedModel]:
    """Load a GGUF file, and free it at the end.

    Args:
        path: the file, the first part of a split one.
        n_gpu_layers: layers to put on a GPU, -1 for all; no effect in a build without GPU support.
        stopped: asked while it loads; true ends it.
        repack: whether llama.cpp may copy weights into layouts that are faster on the processor.
        mapped: whether weights in the processor's memory may be the pages of the file; if not, all are copies.

    Raises:
        GGUFError: no such file, not a valid GGUF model, or llama.cpp rejects it, with its reason.
        KeyboardInterrupt: it was stopped.
    """
    read_whole_model(path)  # llama.cpp aborts the process at some of the files that this rejects
    with captured_log() as log:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = n_gpu_layers, repack
        if not mapped:
            params.load_mode, params.lazy_mode = llama_cpp.LLAMA_LOAD_MODE_NONE, llama_cpp.LLAMA_LAZY_MODE_OFF
        go_on = llama_cpp.llama_progress_callback(lambda progress, data: not stopped())
        params.progress_callback = go_on
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        if stopped():
            raise KeyboardInterrupt
        raise GGUFError(
            f"{path}: llama.cpp cannot load it: {failure_reason(log.text)}",
            hint=f"see what is in it: {command('quantkit', 'inspect', path)}; or build or download it again",
        )
    try:
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        bos = int(llama_cpp.llama_vocab_bos(vocabulary)) if llama_cpp.llama_vocab_get_add_bos(vocabulary) else -1
        yield LoadedModel(
            path,
            model,
            log.text,
            int(llama_cpp.llama_vocab_n_tokens(vocabulary)),
            int(llama_cpp.llama_model_n_ctx_train(model)),
            bos if bos >= 0 else None,
        )
    finally:
        with captured_log():
            llama_cpp.llama_model_free(model)


def context_params(tokens: int, threads: int | None) -> Any:
    """llama.cpp's default settings of a context of so many tokens, all of which it may compute at once.

    Args:
        tokens: of all sequences together.
        threads: CPU threads, None for the processors that are free.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = tokens
    params.n_threads = params.n_threads_batch = llama_threads(threads)
    return params


@contextmanager
def opened_context(model: LoadedModel, params: Any, hint: str) -> Iterator[tuple[Any, str]]:
    """Open a context, and free it at the end.

    Args:
        model: what computes in it.
        params: its settings.
        hint: what to do if there is no memory for it.

    Yields:
        llama.cpp's handle, and what it wrote.

    Raises:
        QuantkitError: llama.cpp refuses, mostly for want of memory.
    """
    with captured_log() as log:
        context = llama_cpp.llama_init_from_model(model.handle, params)
    if context is None:
        raise QuantkitError(
            f"{model.path}: not enough memory for a context of {params.n_ctx} tokens: {failure_reason(log.text)}",
            hint=hint,
        )
    try:
        yield context, log.text
    finally:
        with captured_log():
            llama_cpp.llama_free(context)


def forget(context: Any) -> None:
    """Empty a context's cache."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


def decode(context: Any, tokens: Sequence[Token]) -> tuple[int, str]:
    """Evaluate tokens in one call.

    Returns:
        llama.cpp's status, 0 if all went well, and its reason if not.
    """
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row], batch.logits[row] = token.id, token.place, token.wanted
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, token.sequence
        with captured_log() as log:
            status = int(llama_cpp.llama_decode(context, batch))
    finally:
        llama_cpp.llama_batch_free(batch)
    return status, failure_reason(log.text) if status else ""
