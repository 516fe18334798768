"""How good the files of a package are, as its card says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QualityRow:
    """A file.

    Attributes:
        file: its name.
        nbytes: bytes of all its parts.
        bits: bits of the file for each weight.
        kl: the mean KL divergence from the unquantized file, in nats.
        kl_error: its standard error.
        same_top: the share of positions with the same likeliest token.
        perplexity: on the text.
    """

    file: str
    nbytes: int
    bits: float
    kl: float
    kl_error: float
    same_top: float
    perplexity: float


@dataclass(frozen=True)
class Quality:
    """An evaluation.

    Attributes:
        text: name of the text.
        positions: how many were compared.
        reference: type of the unquantized file.
        perplexity: of that file.
        rows: the files.
    """

    text: str
    positions: int
    reference: str
    perplexity: float
    rows: tuple[QualityRow, ...]
