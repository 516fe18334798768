"""The entry of manifest.json that says how the model answers: whether it thinks, and whether it can call tools."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.files.json_fields import Fields


@dataclass(frozen=True)
class AnswersEntry:
    """How the chat template lets the model answer, derived from it and proven.

    Attributes:
        thoughts: the texts around a thought; empty if nothing shows that the model thinks.
        switches: the variables of the chat template with which it thinks or does not.
        efforts: the values of ``reasoning_effort`` that the chat template knows.
        calls: how calls of tools are written; "" if there are none.
        no_calls: why not.
    """

    thoughts: tuple[str, ...]
    switches: tuple[str, ...]
    efforts: tuple[str, ...]
    calls: str
    no_calls: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, found: Fields) -> AnswersEntry:
        """What :meth:`to_json` wrote."""
        thoughts, switches, efforts = (found.texts(key) for key in ("thoughts", "switches", "efforts"))
        return cls(thoughts, switches, efforts, found.text("calls"), found.text("no_calls"))


def answers_entry(form: AnswerFormat) -> AnswersEntry:
    """The entry for a model that answers so."""
    marks = () if form.thoughts is None else (form.thoughts.marks.open, form.thoughts.marks.close)
    calls = "" if form.calls is None else str(form.calls.kind)
    return AnswersEntry(marks, form.switches, form.efforts, calls, form.no_calls)
