"""How fast a file is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """How fast a file is here, and what it takes.

    Attributes:
        load_seconds: time to load it, with the first context.
        prompt_rate: tokens of a prompt of 512 evaluated per second, median.
        answer_rate: tokens of an answer of 64 evaluated per second, one at a time, median.
        memory: bytes that the process grew by at its peak, with a context of 512, and bytes on devices; None where the
            system does not say.
    """

    load_seconds: float
    prompt_rate: float
    answer_rate: float
    memory: int | None
