"""A reader of foreign bytes, as the fuzzer and the replay of its corpus call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from quantkit.errors import QuantkitError

Mutate = Callable[[bytes, Random], bytes]


def read_each(*reads: Callable[[], object]) -> None:
    """Call every one; raises the first refusal where all refuse."""
    refusals = []
    for read in reads:
        try:
            read()
        except QuantkitError as error:
            refusals.append(error)
    if len(refusals) == len(reads):
        raise refusals[0]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: of its module in ``readers``, with ``-`` for ``_``, and of its folder in ``tests/faults/corpus``.
        seeds: makes sound inputs to begin with, and what *read* needs that no reader may make; it is called before any
            input is read. What is in its corpus is read as well.
        read: reads bytes, in memory or in a folder of :mod:`tests.support.fuzz.scratch`. It returns what the code of
            quantkit makes of them by returning, or by raising a QuantkitError.
        mutate: changes an input by its structure, where random bytes would not get past the first check.
        seconds: of the processor, for one input at most.
        memory: bytes that one input may take beside what the process has.
        largest: bytes of an input at most.
        more: further inputs to begin with, which take long to make: only the fuzzer does.
        allows: audit events that are refused otherwise (:mod:`tests.support.fuzz.guard`), such as subprocess.Popen.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes], object]
    mutate: Mutate | None = None
    seconds: float = 2.0
    memory: int = 512 << 20
    largest: int = 1 << 14
    more: Callable[[], Sequence[bytes]] = tuple
    allows: frozenset[str] = frozenset()
