"""The token sequences of a proof: the prompts of ``verify``, and a text of the user's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.verify.expected import Expected

# Tokens of a sequence at most: logits of a large vocabulary take half a megabyte a token.
LONGEST = 512


@dataclass(frozen=True)
class TokenSequence:
    """Tokens that both sides are given.

    Attributes:
        name: what they are, such as ``a system prompt``.
        ids: at least one and at most :data:`LONGEST`.
        whole: how many the text has.
    """

    name: str
    ids: tuple[int, ...]
    whole: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"name": self.name, "ids": list(self.ids), "whole": self.whole}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TokenSequence:
        """Read what :meth:`to_json` wrote."""
        return cls(values["name"], tuple(values["ids"]), values["whole"])


def sequence(name: str, ids: Sequence[int]) -> TokenSequence:
    """Return a sequence, cut to :data:`LONGEST` tokens."""
    return TokenSequence(name, tuple(ids[:LONGEST]), len(ids))


def prompts(expected: Iterable[Expected]) -> list[TokenSequence]:
    """The conversations of ``verify`` that the chat template does not reject, each once."""
    return [sequence(one.name, one.ids) for one in expected if one.ids]


def total(sequences: Iterable[TokenSequence]) -> int:
    """Number of positions: each has logits."""
    return sum(len(one.ids) for one in sequences)
