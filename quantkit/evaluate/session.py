"""A model in llama.cpp as an evaluation needs it: logits of whole chunks, and how fast it is.

The context is the one that llama-perplexity opens: 512 tokens at a time, a cache in half precision, flash attention
where llama.cpp chooses it. A chat's session would ask for the logits of the last token only.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import GGUFError, QuantkitError
from quantkit.evaluate.speed import Speed
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.gguf.model import read_whole_model
from quantkit.run.load_log import failure_reason
from quantkit.system.memory import peak_memory, present_memory
from quantkit.system.processors import MOST_THREADS, usable_processors

BATCH = 512
"""Tokens that llama.cpp computes at a time."""
_ANSWER = 64
_REPEATS, _LONGEST = 3, 20.0  # repeats of a measurement, and the seconds after which there are no more
_WARM_UP = 16
_BUFFER = re.compile(r":\s+(\S+) (?:model|KV|RS|output|compute) buffer size = +([0-9.]+) MiB")


class EvaluatedModel:
    """A loaded GGUF file. A context manager; not for several threads at once.

    Attributes:
        vocabulary: tokens of the vocabulary.
        trained_context: tokens of the context that the model was trained with.
        threads: CPU threads.
    """

    def __init__(self, path: Path, *, n_gpu_layers: int, threads: int | None) -> None:
        """Load *path*.

        Args:
            path: a GGUF file.
            n_gpu_layers: layers to put on the GPU, -1 for all; no effect in a build without GPU support.
            threads: CPU threads, None for the processors this process may use.

        Raises:
            GGUFError: no such file, not a valid GGUF model, or llama.cpp rejects it.
        """
        read_whole_model(path)  # llama.cpp aborts the process at some of the files that this rejects
        self._path, self._stack, self._log = path, ExitStack(), ""
        self.threads = threads or min(usable_processors(), MOST_THREADS)
        self._before, self._started = present_memory(), time.perf_counter()
        with captured_log() as log:
            llama_cpp.llama_backend_init()
            params = llama_cpp.llama_model_default_params()
            params.n_gpu_layers = n_gpu_layers
            self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if self._model is None:
            raise GGUFError(
                f"{path}: llama.cpp cannot load it: {failure_reason(log.text)}",
                hint=f"see what is in it: quantkit inspect {path}; or build or download it again",
            )
        self._log = log.text
        self._stack.callback(llama_cpp.llama_model_free, self._model)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        self.trained_context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        first = int(llama_cpp.llama_vocab_bos(vocabulary))
        self._bos = first if llama_cpp.llama_vocab_get_add_bos(vocabulary) and first >= 0 else None

    def __enter__(self) -> EvaluatedModel:
        return self

    def __exit__(self, *exc: object) -> None:
        with captured_log():
            self._stack.close()

    def logits(self, ids: Sequence[int], context: int, chunks: int) -> Iterator[npt.NDArray[np.float32]]:
        """The logits that llama-perplexity looks at: of each chunk those of its second half, without the last.

        Each chunk begins with BOS, in the place of its first token, if the file asks for it.

        Args:
            ids: tokens, at least ``chunks * context``.
            context: tokens of a chunk.
            chunks: how many.

        Yields:
            float32 [positions, vocabulary] of at most 512 tokens; valid until the next one.

        Raises:
            QuantkitError: a token that the vocabulary does not have, no memory for the context, or llama.cpp failed.
        """
        self._check(ids)
        first = context // 2
        with self._context(context) as session:
            for chunk in range(chunks):
                tokens = list(ids[chunk * context : (chunk + 1) * context])
                tokens[0] = tokens[0] if self._bos is None else self._bos
                llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(session), True)
                for start in range(0, context, BATCH):
                    stop = min(start + BATCH, context)
                    # Also the last, as llama-perplexity: the number decides which kernels some types go through.
                    wanted = [first <= place for place in range(start, stop)]
                    self._decode(session, tokens[start:stop], start, wanted)
                    if count := sum(wanted) - (stop == context):
                        pointer = llama_cpp.llama_get_logits(session)
                        yield np.ctypeslib.as_array(pointer, shape=(count, self.vocabulary))

    def speed(self) -> Speed:
        """Measure, as llama-bench does: random tokens, from an empty cache, after a short warm-up.

        Raises:
            QuantkitError: no memory for the context, or llama.cpp failed.
        """
        context = min(BATCH, self.trained_context)
        tokens = np.random.default_rng(0).integers(0, self.vocabulary, context).tolist()
        if self._bos is not None:
            tokens[0] = self._bos
        with self._context(context) as session:
            load_seconds = time.perf_counter() - self._started
            self._time(session, [tokens[:_WARM_UP], tokens[:1]])
            prompt = self._rate(session, [tokens])
            answer = self._rate(session, [[token] for token in tokens[:_ANSWER]])
        return Speed(load_seconds, prompt, answer, self._memory())

    def _rate(self, session: Any, batches: Sequence[Sequence[int]]) -> float:
        seconds: list[float] = []
        while len(seconds) < _REPEATS and sum(seconds) < _LONGEST:
            seconds.append(self._time(session, batches))
        return sum(map(len, batches)) / statistics.median(seconds)

    def _time(self, session: Any, batches: Sequence[Sequence[int]]) -> float:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(session), True)
        started, place = time.perf_counter(), 0
        for batch in batches:
            self._decode(session, batch, place, [*[False] * (len(batch) - 1), True])
            llama_cpp.llama_synchronize(session)
            place += len(batch)
        return time.perf_counter() - started

    def _memory(self) -> int | None:
        peak = peak_memory()
        if peak is None or self._before is None:
            return None
        mebibytes = sum(
            float(amount)
            for name, amount in _BUFFER.findall(self._log)
            if not name.startswith("CPU") and not name.endswith("_Host")
        )
        return peak - self._before + int(mebibytes * (1 << 20))

    def _check(self, ids: Sequence[int]) -> None:
        if max(ids) >= self.vocabulary:
            raise QuantkitError(
                f"{self._path}: token {max(ids)} of the text is not in its vocabulary of {self.vocabulary}",
                hint="compare files of one vocabulary",
            )

    @contextmanager
    def _context(self, tokens: int) -> Iterator[Any]:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = tokens
        params.n_batch = params.n_ubatch = min(tokens, BATCH)
        params.n_threads = params.n_threads_batch = self.threads
        with captured_log() as log:
            session = llama_cpp.llama_init_from_model(self._model, params)
        if session is None:
            raise QuantkitError(
                f"{self._path}: not enough memory for a context of {tokens} tokens: {failure_reason(log.text)}",
                hint="use a smaller context with --ctx N, or put fewer layers on the GPU with --n-gpu-layers",
            )
        self._log += log.text
        try:
            yield session
        finally:
            with captured_log():
                llama_cpp.llama_free(session)

    def _decode(self, session: Any, tokens: Sequence[int], start: int, wanted: Sequence[bool]) -> None:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for place, token in enumerate(tokens):
                batch.token[place], batch.pos[place], batch.logits[place] = token, start + place, wanted[place]
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            with captured_log() as log:
                status = llama_cpp.llama_decode(session, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise QuantkitError(
                f"{self._path}: llama.cpp cannot evaluate the text (status {status}): {failure_reason(log.text)}",
                hint="use a smaller context with --ctx N",
            )
