"""Which of several files to take, and why, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.advise.advice import Fit, Row
from quantkit.advise.types import UNQUANTIZED_IS_WASTE, rank
from quantkit.ggml.types import UNQUANTIZED
from quantkit.system.units import size

READING = 8.0
"""Tokens a second: about as fast as one reads."""
_CLOSE = rank("q4_0")  # further down, answers change visibly


@dataclass(frozen=True)
class Recommendation:
    """What to take.

    Attributes:
        row: the file; None if none fits.
        fit: with its context; None if none fits.
        why: reasons, a sentence each.
    """

    row: Row | None
    fit: Fit | None
    why: tuple[str, ...]


def recommend(rows: Sequence[Row], context: int, memory: int) -> Recommendation:
    """The best file that fits and answers as fast as one reads; with a smaller cache if none fits with the usual one.

    Args:
        rows: the files.
        context: tokens of context.
        memory: bytes of main memory there are.
    """
    ordered = _best_first(rows)
    for cache in ("f16", "q8_0"):
        found = [(row, fit) for row in ordered if (fit := row.at(context, cache)) and fit.fits]
        if found:
            return _choose(found, ordered, cache, context, memory)
    tight = [(fit.memory.total, row, fit) for row in rows for fit in row.fits if fit.need.context == context]
    if not tight:
        return Recommendation(None, None, ("llama.cpp refuses this context for the model",))
    need, row, _ = min(tight, key=lambda one: one[0])
    smaller = "a smaller context (--ctx), more layers on a card, or a smaller model"
    return Recommendation(
        None,
        None,
        (f"nothing fits: even {row.candidate.name} needs {size(need)} of {size(memory)}; what helps is {smaller}",),
    )


def _best_first(rows: Sequence[Row]) -> list[Row]:
    """By quality; F16 last, unless there is nothing better for the same answers."""
    labels = {row.candidate.label for row in rows}
    waste = UNQUANTIZED_IS_WASTE in labels
    measured = all(row.candidate.divergence is not None or row.candidate.label in UNQUANTIZED for row in rows)

    def place(row: Row) -> tuple[bool, float]:
        candidate = row.candidate
        unquantized = candidate.label in UNQUANTIZED
        divergence = 0.0 if unquantized else candidate.divergence
        return unquantized and waste, divergence if measured and divergence is not None else rank(candidate.label)

    return sorted(rows, key=place)


def _choose(
    found: Sequence[tuple[Row, Fit]], ordered: Sequence[Row], cache: str, context: int, memory: int
) -> Recommendation:
    quick = [(row, fit) for row, fit in found if (speed := row.speed(fit)) is None or speed >= READING]
    close = [(row, fit) for row, fit in found if rank(row.candidate.label) <= _CLOSE] or found
    row, fit = quick[0] if quick else max(close, key=lambda one: one[0].tokens_per_second)
    name = row.candidate.name
    why = [f"{name} needs {size(fit.memory.total)} of {size(memory)} with {context} tokens of context"]
    if cache != "f16":
        why.append(f"only with a cache of {cache} (--cache-type-k {cache} --cache-type-v {cache})")
    if fit.placement.layers:
        where = (
            f"{fit.placement.layers} of {fit.placement.of} layers on the card (--n-gpu-layers {fit.placement.layers})"
        )
        why.append(f"{where}, {size(fit.placement.card)} there")
    better = ordered[: ordered.index(row)]
    fitting = [one for one, _ in found]
    large = [one.candidate.name for one in better if one not in fitting]
    slow = [one.candidate.name for one in better if one in fitting]
    if large:
        why.append(f"{_listed(large)} would be closer to the model, but does not fit")
    if slow:
        why.append(f"{_listed(slow)} would be closer to the model, but slower than one reads ({READING:.0f} tokens/s)")
    if not quick:
        why.append("nothing answers as fast as one reads; of what is still close to the model, this is the fastest")
    if not better:
        why.append("nothing in the list is closer to the model")
    return Recommendation(row, fit, (*why, _quality_reason(ordered)))


def _quality_reason(rows: Sequence[Row]) -> str:
    if all(row.candidate.divergence is not None or row.candidate.label in UNQUANTIZED for row in rows):
        return "closeness is the KL divergence that the package's own evaluation measured"
    return "closeness is the usual order of the types; quantkit evaluate measures it for this model"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
