"""The embedded example: a tiny base model, a LoRA adapter for it, and the expected answers of both.

They are package data, made by ``scripts/train_demo.py``, so that a first run and the end-to-end test need no network.
Importing this module reads one small JSON file and no weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent

BASE: Path = _FOLDER / "base"
"""A Hugging Face folder in the layout of Llama 3 Instruct."""

ADAPTER: Path = _FOLDER / "adapter"
"""A PEFT folder trained on ``BASE``."""


@dataclass(frozen=True)
class Example:
    """A question, asked in a new conversation, with the exact greedy answers.

    Attributes:
        question: the user's message.
        base_answer: the answer of the base model.
        adapted_answer: the answer of the base with the adapter; the same text if the adapter changes nothing.
    """

    question: str
    base_answer: str
    adapted_answer: str

    @property
    def changed(self) -> bool:
        """Whether the adapter changes the answer."""
        return self.base_answer != self.adapted_answer


def _load(path: Path) -> tuple[Example, ...]:
    return tuple(Example(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))


EXAMPLES: tuple[Example, ...] = _load(_FOLDER / "examples.json")
"""Questions in English and Chinese: most answers change with the adapter, some stay."""
