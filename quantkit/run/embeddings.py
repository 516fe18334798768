"""Embeddings: texts as vectors, whose cosine says how alike they are.

The vector of a text is made of its tokens' last hidden states, behind the model's last norm: their mean, or that of the
last or the first token. It is pooled here rather than by llama.cpp, which pools within one step, so that a text may be
longer than a step. What the file says of pooling (``pooling_type``) holds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.run.context_size import context_full
from quantkit.run.inference import Token, decode, forget
from quantkit.run.session import ChatModel

POOLINGS = ("mean", "cls", "last")
"""Ways to make one vector of many: their mean, the first one, the last one. llama.cpp's names, from its number 1 on."""

_KINDS = {"0": "none", **{str(number): name for number, name in enumerate(POOLINGS, start=1)}, "4": "rank"}


def pooling_of(model: ChatModel, asked: str | None = None) -> str:
    """How the vectors of a text are pooled.

    Args:
        model: the model.
        asked: one of :data:`POOLINGS`, for a file that does not say it.

    Raises:
        QuantkitError: the model cannot, or neither the file nor *asked* says it.
    """
    file, arch = model.path.name, model.engine.metadata("general.architecture")
    if model.engine.metadata(f"{arch}.attention.causal") == "false":
        raise QuantkitError(
            f"--embeddings: {file}: its tokens see those behind them, which is not supported",
            hint="serve it with llama.cpp: llama-server --embeddings",
        )
    number = model.engine.metadata(f"{arch}.pooling_type")
    said = None if number is None else _KINDS.get(number, number)
    if said in POOLINGS:
        if asked not in (None, said):
            raise QuantkitError(f"--pooling {asked}: {file} was made for {said}", hint="leave out --pooling")
        return said
    if said not in (None, "none"):
        raise QuantkitError(
            f"--embeddings: {file}: pooling {said} gives no embeddings", hint="serve it without --embeddings"
        )
    if asked is None:
        raise QuantkitError(
            f"--embeddings: {file} does not say how vectors are pooled, as a model for embeddings does",
            hint="choose it with --pooling mean or --pooling last",
        )
    return asked


class Embedder:
    """Gives embeddings, in a context of its own. For any thread; one text at a time."""

    def __init__(self, model: ChatModel, pooling: str) -> None:
        """Open the context.

        Args:
            model: the model.
            pooling: one of :data:`POOLINGS`.

        Raises:
            QuantkitError: not enough memory for it.
        """
        self._model, self._pooling = model, pooling
        self._context, self._room = model.engine.open_embedding_context()
        self.size = model.engine.n_embd
        self._busy, self._stopping = threading.Lock(), threading.Event()

    def stop(self) -> None:
        """End what is being computed at its next step, and compute nothing further."""
        self._stopping.set()

    def is_idle(self, seconds: float) -> bool:
        """Wait up to *seconds* until nothing is computed; returns whether that is so."""
        if idle := self._busy.acquire(timeout=seconds):
            self._busy.release()
        return idle

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, with what the file says that is added at its beginning and its end.

        Raises:
            ContextFullError: it does not fit into the context.
        """
        engine = self._model.engine
        tokens = self._model.fitting_tokens(text)
        if engine.adds_eos and engine.eos is not None and tokens[-1:] != [engine.eos]:
            tokens.append(engine.eos)
        return tokens

    def embed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32] | None:
        """The embedding of a text: float32, shape [size], of length 1; None if :meth:`stop` came before.

        Args:
            tokens: of the text, at least one.

        Raises:
            ContextFullError: they do not fit into the context.
            QuantkitError: llama.cpp cannot, or its numbers are none.
        """
        if len(tokens) > self._model.n_ctx:
            raise context_full(self._model.engine, len(tokens))
        with self._busy:
            pooled = self._pooled(tokens)
        if pooled is None:
            return None
        length = float(np.linalg.norm(pooled))
        if not np.isfinite(length):
            raise QuantkitError("the model's values are not numbers", hint="build it again, and verify it")
        return (pooled / (length or 1.0)).astype(np.float32)

    def _pooled(self, tokens: Sequence[int]) -> npt.NDArray[np.float64] | None:
        """The vector before it is scaled, float64, shape [size]."""
        forget(self._context)
        self._model.engine.use_loras(self._context, self._model.engine.scales)
        total, last = np.zeros(self.size), len(tokens) - 1
        for start in range(0, len(tokens), self._room):
            if self._stopping.is_set():
                return None
            part = tokens[start : start + self._room]
            status, reason = decode(self._context, [Token(one, start + at, 0, True) for at, one in enumerate(part)])
            if status:
                raise QuantkitError(f"llama.cpp cannot evaluate the tokens at position {start}: {reason}")
            for at in range(len(part)):
                if self._pooling == "mean" or start + at == (0 if self._pooling == "cls" else last):
                    total += self._row(at)
        return total / len(tokens) if self._pooling == "mean" else total

    def _row(self, at: int) -> npt.NDArray[Any]:
        pointer = llama_cpp.llama_get_embeddings_ith(self._context, at)
        return np.ctypeslib.as_array(pointer, shape=(self.size,))
