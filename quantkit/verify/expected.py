"""Expected prompts: those the model was trained on, in a value that a build saves in report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.errors import VocabularyError


@dataclass(frozen=True)
class Expected:
    """A conversation and its prompt according to the checkpoint.

    Attributes:
        name: the kind of conversation.
        messages: the conversation.
        text: the prompt, None if the template rejects the conversation.
        ids: its tokens.
        plain_ids: the ids that llama.cpp may return, with its treatment of blanks next to added tokens; None if they
            are the same, or not allowed.
    """

    name: str
    messages: tuple[dict[str, str], ...]
    text: str | None
    ids: tuple[int, ...] = ()
    plain_ids: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON for report.json: ids as one text, which stays on one line."""
        plain = None if self.plain_ids is None else " ".join(map(str, self.plain_ids))
        ids = " ".join(map(str, self.ids))
        return {"name": self.name, "messages": list(self.messages), "text": self.text, "ids": ids, "plain_ids": plain}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Expected:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: it was written by something else.
        """
        plain, text = values["plain_ids"], values["text"]
        if not isinstance(text, str | None):
            raise TypeError(f"a prompt is {text!r:.60}")
        return cls(
            name=str(values["name"]),
            messages=tuple({"role": str(m["role"]), "content": str(m["content"])} for m in values["messages"]),
            text=text,
            ids=tuple(map(int, values["ids"].split())),
            plain_ids=None if plain is None else tuple(map(int, plain.split())),
        )


def read_expected(values: Any) -> tuple[Expected, ...]:
    """Read the prompts that a build saved.

    Raises:
        VocabularyError: they are damaged.
    """
    try:
        return tuple(Expected.from_json(one) for one in values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VocabularyError(
            f"the prompts in report.json are damaged ({type(error).__name__}: {error!s:.200})",
            hint="compare with the checkpoint instead: quantkit verify DIR --source MODEL",
        ) from None
