"""How likely the model held each token of an answer: logprobs, as OpenAI's API has them.

They are the natural logarithm of the softmax of the model's own logits, before penalties, biases, a grammar, the
temperature or a cut such as ``top_k`` change them: so they tell what the model knows, and do not depend on how the
answer was sampled. llama.cpp's server reports the same unless ``post_sampling_probs`` is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_TOP = 20
"""The most alternatives per token; OpenAI's limit."""


@dataclass(frozen=True)
class Candidate:
    """A token and the logarithm of its probability.

    Attributes:
        id: the token.
        data: its bytes, which may be a part of a character; those of a control token are its name.
        logprob: natural logarithm of its probability, at most 0.
    """

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True)
class TokenScore(Candidate):
    """A token of an answer.

    Attributes:
        top: the likeliest tokens in its place, the likeliest first.
        start: characters of the answer before it.
    """

    top: tuple[Candidate, ...]
    start: int


class Scores:
    """Collects the scores of one answer while it is generated.

    A token counts as part of the answer when text from where it begins has been passed on: the tokens of a stop
    sequence are not.
    """

    def __init__(self, top: int, piece: Callable[[int], bytes]) -> None:
        """Prepare.

        Args:
            top: alternatives per token, at most :data:`MOST_TOP`.
            piece: gives the bytes of a token, also of a control token.
        """
        self._top, self._piece = top, piece
        self._waiting: list[TokenScore] = []
        self._decoded = self._shown = 0

    def add(self, token: int, logits: npt.NDArray[np.float32]) -> None:
        """Take the next token, and the logits that it was sampled from, shape [n_vocab]."""
        self._waiting.append(score(token, logits, self._top, self._piece, start=self._decoded))

    def decode(self, text: str) -> None:
        """Take the text that the last token completed."""
        self._decoded += len(text)

    def show(self, text: str) -> None:
        """Take text that was passed on as part of the answer."""
        self._shown += len(text)

    def end(self) -> None:
        """The answer ends without a stop sequence, so that all tokens belong to it."""
        self._shown = self._decoded + 1

    def take(self) -> tuple[TokenScore, ...]:
        """The tokens that have become part of the answer since the last call."""
        count = sum(one.start < self._shown for one in self._waiting)
        taken, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        return taken


def score(
    token: int, logits: npt.NDArray[Any], top: int, piece: Callable[[int], bytes], *, start: int = 0
) -> TokenScore:
    """The score of a token.

    Args:
        token: the token.
        logits: what the model gave for its place, shape [n_vocab].
        top: how many of the likeliest tokens are told.
        piece: gives the bytes of a token.
        start: characters of the answer before it.
    """
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    best = _largest(values, min(top, len(values)))
    candidates = tuple(Candidate(one, piece(one), float(values[one])) for one in best)
    return TokenScore(token, piece(token), float(values[token]), candidates, start)


def _largest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Where the largest values are, in their order; of equal ones the first. None among NaN."""
    if not count:
        return []
    least = np.partition(values, len(values) - count)[len(values) - count]
    found = np.flatnonzero(values >= least)
    return [int(one) for one in found[np.argsort(-values[found], kind="stable")][:count]]
