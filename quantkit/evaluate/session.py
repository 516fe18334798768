"""A model in llama.cpp as an evaluation needs it: logits of whole chunks, and how fast it is.

The context is the one that llama-perplexity opens: 512 tokens at a time, a cache in half precision, flash attention
where llama.cpp chooses it. A chat's session would ask for the logits of the last token only.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.evaluate.speed import Speed
from quantkit.ggml.llama import llama_cpp
from quantkit.run.inference import Token, context_params, decode, forget, loaded_model, opened_context
from quantkit.system.memory import peak_memory, present_memory
from quantkit.system.processors import llama_threads

BATCH = 512
"""Tokens that llama.cpp computes at a time."""
_ANSWER = 64
_REPEATS, _LONGEST = 3, 20.0  # repeats of a measurement, and the seconds after which there are no more
_WARM_UP = 16
_HINT = "use a smaller context with --ctx N"
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
            threads: CPU threads, None for the processors that are free.

        Raises:
            GGUFError: no such file, not a valid GGUF model, or llama.cpp rejects it.
        """
        self._stack = ExitStack()
        self._before, self._started = present_memory(), time.perf_counter()
        self._model = self._stack.enter_context(loaded_model(path, n_gpu_layers=n_gpu_layers))
        self._log, self.threads = self._model.log, llama_threads(threads)
        self.vocabulary, self.trained_context = self._model.vocabulary, self._model.trained_context

    def __enter__(self) -> EvaluatedModel:
        return self

    def __exit__(self, *exc: object) -> None:
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
                tokens[0] = tokens[0] if self._model.bos is None else self._model.bos
                forget(session)
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
        if self._model.bos is not None:
            tokens[0] = self._model.bos
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
        forget(session)
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
                f"{self._model.path}: token {max(ids)} of the text is not in its vocabulary of {self.vocabulary}",
                hint="compare files of one vocabulary",
            )

    @contextmanager
    def _context(self, tokens: int) -> Iterator[Any]:
        params = context_params(tokens, self.threads)
        params.n_batch = params.n_ubatch = min(tokens, BATCH)
        with opened_context(self._model, params, f"{_HINT}, or put fewer layers on the GPU with --n-gpu-layers") as (
            session,
            log,
        ):
            self._log += log
            yield session

    def _decode(self, session: Any, tokens: Sequence[int], start: int, wanted: Sequence[bool]) -> None:
        places = range(start, start + len(tokens))
        rows = zip(tokens, places, wanted, strict=True)
        status, reason = decode(session, [Token(token, place, 0, logits) for token, place, logits in rows])
        if status != 0:
            raise QuantkitError(
                f"{self._model.path}: llama.cpp cannot evaluate the text (status {status}): {reason}", hint=_HINT
            )
