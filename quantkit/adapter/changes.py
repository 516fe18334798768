"""The changes that an adapter makes to one tensor of its base: a closed list that the merger matches on.

A change names keys of the adapter file and contains no values, so it can be made from headers alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """One matrix's share of factors that PEFT stores for all experts of a layer together.

    PEFT stores ``lora_A`` as [experts * r, in], expert by expert, and ``lora_B`` as [out, r * experts], in which the
    columns of one expert are *experts* apart (``ParamWrapper.get_delta_weight`` of PEFT 0.21).

    Attributes:
        expert: index of the expert.
        experts: number of experts.
        start: first row of the left factor; an expert's gate and up matrices are stacked.
        stop: end of the rows, exclusive.
    """

    expert: int
    experts: int
    start: int
    stop: int


@dataclass(frozen=True)
class Place:
    """The rows of a larger matrix that a product is added to.

    Attributes:
        start: the first of them.
        rows: of the larger matrix.
    """

    start: int
    rows: int


@dataclass(frozen=True)
class LowRank:
    """``W += scale * rows @ cols``, with ``rows`` of shape [out, r] and ``cols`` of shape [r, in].

    Attributes:
        rows: key of the left factor (``lora_B``; ``lora_embedding_A`` for embeddings).
        cols: key of the right factor (``lora_A``; ``lora_embedding_B`` for embeddings).
        transposed: the stored factors are the transposes of these, as PEFT stores them for embeddings.
        scale: the scaling.
        magnitude: key of DoRA's magnitudes (Liu et al. 2024, arXiv:2402.09353); empty for plain LoRA. After the sum,
            each row is rescaled so that its norm is its magnitude: shape [out]. For embeddings, whose factors are
            stored transposed, each column is rescaled: shape [in].
        part: the part of the stored factors that belongs to this tensor; None for all of them.
            With *transposed*, they are the factors of the transposed experts, as PEFT before 0.19 stored them.
        place: the rows of the tensor that the product is added to; None for all of them.
    """

    rows: str
    cols: str
    transposed: bool
    scale: float
    magnitude: str = ""
    part: Slice | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Replace:
    """``W = key``: trained in full (``modules_to_save``, trained biases)."""

    key: str


@dataclass(frozen=True)
class Add:
    """``b += scale * key``: the bias of ``lora_B`` (``lora_bias``)."""

    key: str
    scale: float


@dataclass(frozen=True)
class Tokens:
    """``W[indices] = key``: rows of single tokens, trained in full; ``key`` has shape [len(indices), hidden]."""

    key: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Module:
    """The weight or bias that PEFT's own layer computes, see :mod:`quantkit.adapter.peft_layer`.

    Attributes:
        module: path of the module in the model that was trained.
        leaf: ``weight`` or ``bias``.
    """

    module: str
    leaf: str


Change = LowRank | Replace | Add | Tokens | Module
