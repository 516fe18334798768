"""What a machine can run: every file with its memory, its layers on the card and its speed, and which one to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.advise.bandwidth import expected_speed
from quantkit.advise.cache import F16_CACHE, CacheTypes, cache_layers, layer_nbytes
from quantkit.advise.card import Placement, card_compute, place
from quantkit.advise.context import ContextMemory, ContextRun
from quantkit.advise.memory import Memory, program_nbytes
from quantkit.advise.weights import Weights
from quantkit.errors import GGUFError
from quantkit.ggml.types import GGMLType

CACHES: Mapping[str, CacheTypes] = {
    "f16": F16_CACHE,
    "q8_0": CacheTypes(GGMLType.Q8_0, GGMLType.Q8_0),
    "q4_0": CacheTypes(GGMLType.Q4_0, GGMLType.Q4_0),
}
# llama.cpp prints the size of each of its caches to a hundredth of a MiB.
_ROUNDING = 2 * 0.01 * 2**20


@dataclass(frozen=True)
class Machine:
    """What a model may use.

    Attributes:
        memory: bytes of main memory that it may have.
        card: bytes of the memory of a graphics card; 0 for none.
        bandwidth: bytes a second that the processors read from main memory.
        threads: how many of them.
    """

    memory: int
    card: int
    bandwidth: float
    threads: int


@dataclass(frozen=True)
class Candidate:
    """A file, which is there or could be built.

    Attributes:
        label: its type.
        file: its name, None if it is not there.
        nbytes: its size.
        weights: bytes of its tensors.
        elements: the number of its weights.
        divergence: mean KL divergence from the reference, from an evaluation of this package; None without one.
    """

    label: str
    file: str | None
    nbytes: int
    weights: Weights
    elements: int
    divergence: float | None = None

    @property
    def name(self) -> str:
        """Its file, or the type it would have."""
        return self.file or self.label


@dataclass(frozen=True)
class Need:
    """What a context takes beside the weights.

    Attributes:
        context: tokens.
        cache: the type of keys and values.
        by_layer: bytes of keys and values of each layer.
        compute: bytes for intermediate results.
    """

    context: int
    cache: str
    by_layer: tuple[int, ...]
    compute: int


@dataclass(frozen=True)
class Fit:
    """A candidate with a context on the machine.

    Attributes:
        need: the context.
        memory: in main memory, by part.
        placement: what is on the card, and what is not.
        fits: whether the machine has that much.
    """

    need: Need
    memory: Memory
    placement: Placement
    fits: bool


@dataclass(frozen=True)
class Row:
    """A candidate on the machine.

    Attributes:
        candidate: the file.
        fits: for each context and cache.
        tokens_per_second: expected for an answer without a card, see :func:`expected_speed`.
    """

    candidate: Candidate
    fits: tuple[Fit, ...]
    tokens_per_second: float

    def at(self, context: int, cache: str) -> Fit | None:
        """The fit for a context and a cache; None if llama.cpp refuses that cache."""
        return next((fit for fit in self.fits if (fit.need.context, fit.need.cache) == (context, cache)), None)

    def speed(self, fit: Fit) -> float | None:
        """Tokens a second with what is on the card, whose own time is not known; None if everything is there."""
        host = fit.placement.host_share
        return self.tokens_per_second / host if host > 0 else None


def needs(
    metadata: Mapping[str, Any], runs: Sequence[ContextRun], answers: Sequence[ContextMemory | None], layers: int
) -> tuple[Need, ...]:
    """What contexts take, by layer.

    Args:
        metadata: values of the GGUF file by key.
        runs: the contexts, of types in ``CACHES``.
        answers: llama.cpp's, which count where an architecture stores something else than is known here; they are then
            divided equally among the layers. None leaves the run out.
        layers: how many.
    """
    names = {types: name for name, types in CACHES.items()}
    found = []
    for run, answer in zip(runs, answers, strict=True):
        if answer is None:
            continue
        try:
            stored = cache_layers(metadata)
            by_layer = tuple(layer_nbytes(layer, run.context, run.types, batch=run.batch) for layer in stored)
        except GGUFError:  # it remembers in another way than by keys and values
            by_layer = ()
        if len(by_layer) != layers or abs(sum(by_layer) - answer.cache) > _ROUNDING:
            by_layer = tuple(answer.cache * (i + 1) // layers - answer.cache * i // layers for i in range(layers))
        found.append(Need(run.context, names[run.types], by_layer, answer.compute))
    return tuple(found)


def judge(candidate: Candidate, wants: Sequence[Need], machine: Machine, vocabulary: int) -> Row:
    """A candidate on a machine.

    Args:
        candidate: the file.
        wants: the contexts.
        machine: the machine.
        vocabulary: tokens of the vocabulary.
    """
    program = program_nbytes(vocabulary)
    fits = []
    for need in wants:
        placement = place(candidate.weights, need.by_layer, card_compute(need.compute, vocabulary), machine.card)
        memory = Memory(placement.host_weights, placement.host_cache, need.compute, program)
        fits.append(Fit(need, memory, placement, memory.total <= machine.memory))
    return Row(candidate, tuple(fits), expected_speed(machine.bandwidth, candidate.weights.per_token))
