"""What a model is calibrated on or evaluated with: a text, or conversations, as the model's own tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """The tokens of a data file in one model's vocabulary.

    Attributes:
        name: the file's name.
        sha256: of the file's bytes, in hexadecimal.
        ids: token ids, BOS first where the model's file asks for it; of conversations, one after another.
        conversations: how many conversations they are; 0 for a plain text.
    """

    name: str
    sha256: str
    ids: tuple[int, ...]
    conversations: int = 0

    @property
    def ids_sha256(self) -> str:
        """Of the ids as int32, little-endian: two models with the same tokens of the same data have the same."""
        return hashlib.sha256(np.array(self.ids, dtype="<i4").tobytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "ids": list(self.ids),
            "conversations": self.conversations,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tokens:
        """Read what :meth:`to_json` wrote."""
        return cls(values["name"], values["sha256"], tuple(values["ids"]), values["conversations"])
