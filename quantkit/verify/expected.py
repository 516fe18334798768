"""Prompts as the model was trained on, in a value that a build keeps in report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.errors import VocabularyError


@dataclass(frozen=True)
class Expected:
    """A conversation and its prompt on the checkpoint's side.

    Attributes:
        name: of its shape.
        messages: the conversation.
        text: the prompt, None where the template refuses the conversation.
        ids: its tokens.
        plain_ids: what llama.cpp may make of it, blanks beside added tokens being as it treats them; None where that
            is the same, or nothing to allow.
    """

    name: str
    messages: tuple[dict[str, str], ...]
    text: str | None
    ids: tuple[int, ...] = ()
    plain_ids: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As report.json has it: ids as one text, which stays on one line."""
        plain = None if self.plain_ids is None else " ".join(map(str, self.plain_ids))
        ids = " ".join(map(str, self.ids))
        return {"name": self.name, "messages": list(self.messages), "text": self.text, "ids": ids, "plain_ids": plain}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Expected:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: something else did.
        """
        plain, text = values["plain_ids"], values["text"]
        if not isinstance(text, str | None):
            raise TypeError(f"a prompt is {text!r}")
        return cls(
            name=str(values["name"]),
            messages=tuple({"role": str(m["role"]), "content": str(m["content"])} for m in values["messages"]),
            text=text,
            ids=tuple(map(int, values["ids"].split())),
            plain_ids=None if plain is None else tuple(map(int, plain.split())),
        )


def read_expected(values: Any) -> tuple[Expected, ...]:
    """The prompts that a build kept.

    Raises:
        VocabularyError: they are no longer as it wrote them.
    """
    try:
        return tuple(Expected.from_json(one) for one in values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VocabularyError(
            f"the prompts kept in report.json are broken ({type(error).__name__}: {error})",
            hint="give the checkpoint instead: quantkit verify DIR --source MODEL",
        ) from None
