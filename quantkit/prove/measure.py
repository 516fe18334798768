"""How far two models' distributions of the next token are from each other, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.prove.sequences import TokenSequence

Floats = npt.NDArray[np.float32]
_ROWS = 64  # positions at a time: in float64 they take 80 MB with the largest vocabularies


@dataclass(frozen=True)
class Difference:
    """The first position at which the likeliest token differs.

    Attributes:
        sequence: name of the sequence.
        position: of the token after which they differ, from 0.
        ours: the token that the file holds likeliest.
        theirs: the one that transformers holds likeliest.
        gap: by how many nats transformers prefers its own.
    """

    sequence: str
    position: int
    ours: int
    theirs: int
    gap: float


@dataclass(frozen=True)
class Distance:
    """The distance of a file's logits from transformers'.

    Attributes:
        positions: how many were compared.
        mean: mean KL divergence of the file from transformers, in nats.
        largest: largest KL divergence.
        where: its sequence and position, ``a question, position 4``.
        agreement: share of positions at which the likeliest token is the same.
        gap: largest :attr:`Difference.gap`, 0 if the likeliest token is the same everywhere.
        first: the first position at which it is not; None if there is none.
    """

    positions: int
    mean: float
    largest: float
    where: str
    agreement: float
    gap: float
    first: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def distance(ours: Floats, theirs: Floats, sequences: Sequence[TokenSequence]) -> Distance:
    """Compare logits, in float64.

    Args:
        ours: the file's logits, shape [positions, vocabulary]; a memory map is read in parts.
        theirs: transformers', the same shape.
        sequences: the tokens, whose positions follow each other.
    """
    parts = [_rows(ours[start : start + _ROWS], theirs[start : start + _ROWS]) for start in range(0, len(ours), _ROWS)]
    divergence, chosen, right, gap = (np.concatenate(column) for column in zip(*parts, strict=True))
    places = [(one.name, position) for one in sequences for position in range(len(one.ids))]
    worst, differ = int(divergence.argmax()), np.flatnonzero(chosen != right)
    first = None
    if len(differ):
        at = int(differ[0])
        first = Difference(*places[at], int(chosen[at]), int(right[at]), float(gap[at]))
    return Distance(
        positions=len(divergence),
        mean=float(divergence.mean()),
        largest=float(divergence[worst]),
        where=f"{places[worst][0]}, position {places[worst][1]}",
        agreement=1 - len(differ) / len(divergence),
        gap=float(gap.max()),
        first=first,
    )


def _rows(ours: Floats, theirs: Floats) -> tuple[npt.NDArray[Any], ...]:
    """By row: the divergence, the likeliest token of each side, and how much likelier theirs is to them than ours."""
    mine, right = _log_softmax(ours), _log_softmax(theirs)
    divergence = np.sum(np.exp(right) * (right - mine), axis=1)
    rows, chosen, best = np.arange(len(mine)), mine.argmax(1), right.argmax(1)
    return np.maximum(divergence, 0), chosen, best, right[rows, best] - right[rows, chosen]


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values
