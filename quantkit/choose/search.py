"""The types with which a file of a given size is nearest to the unquantized one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantkit.choose.errors import TensorErrors
from quantkit.choose.knapsack import Option, solve
from quantkit.errors import QuantizationError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import align
from quantkit.plan.values import PlannedTensor
from quantkit.system.units import size


@dataclass(frozen=True)
class Measured:
    """What is known of the tensors that can be quantized.

    Attributes:
        tensors: the tensors.
        errors: by name.
        sensitivities: by name, divergence for an error of 1.
        beside: bytes of the file besides these tensors: header, vectors, paddings.
    """

    tensors: Sequence[PlannedTensor]
    errors: Mapping[str, TensorErrors]
    sensitivities: Mapping[str, float]
    beside: int

    def cost(self, name: str, kind: GGMLType) -> float:
        """What a tensor in a type adds to the divergence, in nats."""
        return self.sensitivities[name] * self.errors[name].by_type[kind]

    def predicted(self, types: Mapping[str, GGMLType]) -> float | None:
        """The divergence with some types; None if the error of one is not known."""
        if any(types[tensor.name] not in self.errors[tensor.name].by_type for tensor in self.tensors):
            return None
        return sum(self.cost(tensor.name, types[tensor.name]) for tensor in self.tensors)


@dataclass(frozen=True)
class Found:
    """A search's result.

    Attributes:
        types: by tensor name.
        nbytes: the size of the file.
        predicted: the divergence, in nats.
        gap: how far a better solution could be below that at most, relative.
    """

    types: Mapping[str, GGMLType]
    nbytes: int
    predicted: float
    gap: float


def padded(tensor: PlannedTensor, kind: GGMLType) -> int:
    """Bytes of a tensor in a file, with its padding."""
    return align(kind.nbytes(tensor.shape))


def bounds(types: Mapping[PlannedTensor, Sequence[GGMLType]], beside: int) -> tuple[int, int]:
    """The smallest and the largest size of a file, in bytes."""
    least, most = (
        beside + sum(pick(padded(tensor, kind) for kind in kinds) for tensor, kinds in types.items())
        for pick in (min, max)
    )
    return least, most


def check_size(nbytes: int, least: int, most: int, weights: int) -> None:
    """Refuse a size that no file of this model can have.

    Raises:
        QuantizationError: with the smallest and the largest that is possible.
    """
    if nbytes < least:
        raise QuantizationError(
            f"{size(nbytes)} is too small for this model: the smallest file has {least:,} bytes, "
            f"{least * 8 / weights:.2f} bits per weight",
            hint=f"ask for --size {least} or --bits {math.ceil(least * 800 / weights) / 100:.2f} at least, or take a "
            "smaller model",
        )
    if nbytes > most:
        raise QuantizationError(
            f"{size(nbytes)} is more than this model can fill: the unquantized file has {most:,} bytes",
            hint=f"keep the unquantized file with --keep-f16, or ask for --size {most} or --bits "
            f"{math.floor(most * 800 / weights) / 100:.2f} at most",
        )


def search(measured: Measured, nbytes: int) -> Found:
    """Choose types.

    Args:
        measured: what is known.
        nbytes: the most that the file may have; at least the smallest of :func:`bounds`.
    """
    options = [
        [
            (kind, Option(measured.cost(tensor.name, kind), padded(tensor, kind)))
            for kind in measured.errors[tensor.name].by_type
        ]
        for tensor in measured.tensors
    ]
    options = [[(kind, option) for kind, option in row if option.cost < float("inf")] for row in options]
    solution = solve([[option for _, option in row] for row in options], nbytes - measured.beside)
    types = {
        tensor.name: row[pick][0] for tensor, row, pick in zip(measured.tensors, options, solution.picks, strict=True)
    }
    return Found(types, measured.beside + solution.nbytes, solution.cost, solution.gap)
